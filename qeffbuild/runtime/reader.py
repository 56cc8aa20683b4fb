"""A package of any task but causal-lm -> the reader that answers it: vectors, labels, transcripts or text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from qeffbuild.errors import RunError
from qeffbuild.models.tasks import IMAGE_TEXT
from qeffbuild.package import Package
from qeffbuild.runtime.reading import Asked, Reader
from qeffbuild.runtime.session import Session, open_session
from qeffbuild.runtime.tokenizer import Tokenizer, open_tokenizer

HEARING = frozenset({"ctc", "speech-seq2seq"})


def open_reader(path: Path, *, threads: int | None = None, devices: Sequence[int] = ()) -> Reader:
    """Loads the package; its task says which reader it gets."""
    began = perf_counter()
    package = Package.open(path)
    reader = _reader(package, open_session(package, threads=threads, devices=devices))
    reader.load_s = perf_counter() - began
    return reader


def check_asked(task: str, asked: Asked) -> None:
    """Refuses what is missing, texts for a model that hears and sounds for one that reads, before anything is built."""
    if asked.images and task != IMAGE_TEXT:
        raise RunError("run.image", f"images: a model of task {task} does not see", hint="leave them out")
    for name in asked.images:
        if not Path(name).is_file():
            raise RunError("run.image", f"images: there is no file {name}", hint="check the path")
    if task in HEARING:
        if asked.prompts:
            raise RunError("run.prompt", f"prompts: text, but a model of task {task} hears", hint="audio=[FILE.wav]")
        if not asked.audio:
            raise RunError("run.audio", "audio: there is no sound to transcribe", hint="audio=[FILE.wav]")
        for name in asked.audio:
            if not Path(name).is_file():
                raise RunError("run.audio", f"audio: there is no file {name}", hint="check the path")
    elif asked.audio:
        hint = 'give texts: prompts=["..."]'
        raise RunError("run.audio", f"audio: sound, but a model of task {task} reads text", hint=hint)
    elif not asked.prompts:
        raise RunError("run.prompt", "there is no prompt", hint='give one: prompts=["Hi there!!"]')
    elif "" in asked.prompts:
        raise RunError("run.prompt", f"prompt {asked.prompts.index('') + 1} is empty", hint="give some text")
    if asked.decoding.draft is not None:
        Package.open(Path(asked.decoding.draft))


def _reader(package: Package, session: Session) -> Reader:
    if package.task in ("embedding", "sequence-classification"):
        from qeffbuild.runtime.classification import Classifier
        from qeffbuild.runtime.embedding import Embedder
        from qeffbuild.runtime.encoder import Encoder, Shapes

        encoder = Encoder(session, Shapes.of(package), _tokenizer(package), package.model["vocab_size"])
        return Embedder(package, encoder) if package.task == "embedding" else Classifier(package, encoder)
    if package.task == "ctc":
        from qeffbuild.runtime.transcription import Listener

        return Listener(package, session, _folder(package))
    if package.task in ("speech-seq2seq", "text-seq2seq"):
        from qeffbuild.runtime.seq2seq import Seq2Seq
        from qeffbuild.runtime.sound import Hearing

        hearing = Hearing(_folder(package)) if package.task == "speech-seq2seq" else None
        return Seq2Seq(package, session, _tokenizer(package), hearing)
    raise RunError("run.task", f"no reader for a package of task {package.task}", hint="update qeffbuild")


def _folder(package: Package) -> Path:
    """Where the tokenizer is, and what prepares sound beside it."""
    if package.tokenizer is None:
        raise RunError(
            "run.tokenizer",
            "the package has no tokenizer, and this task begins or ends with text",
            hint="build from a model folder that has a tokenizer",
        )
    return package.tokenizer


def _tokenizer(package: Package) -> Tokenizer:
    return open_tokenizer(_folder(package))
