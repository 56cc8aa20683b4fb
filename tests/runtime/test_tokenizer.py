"""A package's tokenizer says what AutoTokenizer says, without transformers; growing text is never broken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import qeffbuild
from qeffbuild.errors import RunError
from qeffbuild.runtime.tokenizer import TextStream, open_tokenizer

CORPUS = ["Hello there, how are you? I'm well; thank you. The 3 cafés cost 12 €, or 漢字 and 😀 smiles."] * 4
TEXTS = ["Hi there!!", " two  spaces", "the café: 12 €", "漢字漢字", "😀👍🏽 ok", "a\nb\t c", "naïve", "<s> </s>"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """The form of sentencepiece models: a mark for spaces, a first space that is dropped, unknown bytes as tokens."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words += sorted({letter for letter in CORPUS[0] if letter.isascii() and letter != " "})
    vocabulary = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in ("<unk>", "<s>", "</s>")])
    return tokenizer


def with_template(make: Callable[[], Tokenizer]) -> Tokenizer:
    """A tokenizer whose own file puts <s> before a text."""
    tokenizer = make()
    begin = ("<s>", tokenizer.token_to_id("<s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    return tokenizer


@pytest.fixture
def folder_of(tmp_path: Path) -> Callable[..., Path]:
    """folder_of(tokenizer, add_bos_token=True, ...) -> a folder of tokenizer files as models have them."""

    def write(tokenizer: Tokenizer, **config: Any) -> Path:
        said = {"tokenizer_class": "TokenizersBackend", "bos_token": "<s>", "eos_token": "</s>", **config}
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "config", [{}, {"add_bos_token": True, "add_eos_token": True}, {"add_bos_token": False}], ids=str
)
@pytest.mark.parametrize("has_template", [False, True])
@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_ids_and_text_are_those_of_auto_tokenizer(folder_of, make, has_template, config):
    from transformers import AutoTokenizer

    folder = folder_of(with_template(make) if has_template else make(), **config)
    ours, theirs = open_tokenizer(folder), AutoTokenizer.from_pretrained(folder)

    encoded = [ours.encode(text) for text in TEXTS]

    assert encoded == [theirs(text)["input_ids"] for text in TEXTS]
    assert [ours.decode(ids) for ids in encoded] == [theirs.decode(ids, skip_special_tokens=True) for ids in encoded]


def test_the_shipped_models_tokenizer_is_read_as_auto_tokenizer_reads_it():
    from transformers import AutoTokenizer

    folder = Path(qeffbuild.__file__).parent / "models" / "demo"
    ours, theirs = open_tokenizer(folder), AutoTokenizer.from_pretrained(folder)

    assert [ours.encode(text) for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


@pytest.mark.parametrize(
    ("class_name", "make"),
    [
        ("GPT2Tokenizer", byte_level),
        ("Qwen2Tokenizer", byte_level),
        ("LlamaTokenizer", byte_fallback),
        ("GemmaTokenizer", byte_fallback),
    ],
)
def test_what_transformers_saved_is_read_as_it_was_meant(folder_of, tmp_path, class_name, make):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder_of(make(), tokenizer_class=class_name, unk_token="</s>"))
    theirs.save_pretrained(tmp_path / "saved")  # some classes rebuild the tokenizer by their own rules
    ours = open_tokenizer(tmp_path / "saved")

    encoded = [ours.encode(text) for text in TEXTS]

    assert encoded == [theirs(text)["input_ids"] for text in TEXTS]
    assert [ours.decode(ids) for ids in encoded] == [theirs.decode(ids, skip_special_tokens=True) for ids in encoded]


def test_truncation_and_padding_in_the_file_touch_no_prompt(folder_of):
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)

    assert (
        open_tokenizer(folder_of(tokenizer)).encode("Hello there, 3 cafés")
        == byte_level().encode("Hello there, 3 cafés").ids
    )


def test_files_without_a_tokenizer_json_are_left_to_transformers(tmp_path):
    from transformers import AutoTokenizer

    byte_level().model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    ours, theirs = open_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)

    ids = ours.encode("Hello there, 3 cafés")

    assert ids == theirs("Hello there, 3 cafés")["input_ids"]
    assert ours.decode(ids) == "Hello there, 3 cafés"


@pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "Nonsense"}}'])
def test_a_tokenizer_that_cannot_be_read_is_an_error_with_its_place(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(RunError) as error:
        open_tokenizer(tmp_path)

    assert (error.value.kind, error.value.where) == ("run.tokenizer", str(tmp_path))


def test_running_a_package_imports_neither_torch_nor_transformers(folder_of):
    program = (
        "import sys; from pathlib import Path; import qeffbuild.runtime.engine, qeffbuild.runtime.bench\n"
        "import qeffbuild.runtime.evaluate, qeffbuild.runtime.tokenizer as t\n"
        "t.open_tokenizer(Path(sys.argv[1])).encode('Hi there!!')\n"
        "print(*sorted({'torch', 'transformers', 'onnx', 'huggingface_hub'} & set(sys.modules)))"
    )

    command = [sys.executable, "-c", program, str(folder_of(byte_level()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


class Whole:
    """A tokenizer of the library behind our door."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.encode = lambda text: tokenizer.encode(text).ids
        self.decode: Callable[[Sequence[int]], str] = tokenizer.decode


TOKENIZERS = {"byte_level": Whole(byte_level()), "byte_fallback": Whole(byte_fallback())}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from("ab ,€漢字é😀👍🏽\n"), max_size=30))
def test_pieces_of_a_text_are_whole_characters_and_add_up(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer)

    pieces = [stream.push(token_id) for token_id in ids]

    assert "".join(pieces) == tokenizer.decode(ids)
    assert stream.flush() == ""


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 319), max_size=40))
def test_any_tokens_at_all_add_up_once_the_end_is_flushed(ids):
    tokenizer = TOKENIZERS["byte_level"]
    stream = TextStream(tokenizer)

    pieces = [stream.push(token_id) for token_id in ids]

    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_a_piece_goes_out_with_the_token_that_completes_it():
    tokenizer = TOKENIZERS["byte_level"]
    stream = TextStream(tokenizer)

    # 字 is no token here: three bytes, three tokens at most.
    pieces = [stream.push(token_id) for token_id in tokenizer.encode("a字b")]

    assert pieces[0] == "a"
    assert [piece for piece in pieces if piece] == ["a", "字", "b"]
