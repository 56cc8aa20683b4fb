"""A task and what was asked -> its specializations: prefill and decode, one for each length, or encoder and decoder."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.cloud_ai_100.exported import Exported
from qeffbuild.cloud_ai_100.image_shapes import with_images
from qeffbuild.cloud_ai_100.specializations import Specialization, numbered, specializations, with_windows
from qeffbuild.errors import SpecError
from qeffbuild.signature import IoSignature
from qeffbuild.spec.for_task import input_lengths
from qeffbuild.spec.types import SpecializationSpec

_NAMES = {"embedding": "Embedding", "sequence-classification": "SeqClassification", "ctc": "CTC"}


def specializations_of(
    exported: Exported, shapes: SpecializationSpec, signature: IoSignature, *, continuous: bool
) -> tuple[Specialization, ...]:
    """Of any task; `signature` is that of the graph that has retained states, if one has."""
    if exported.task not in ("causal-lm", "image-text"):
        return reader_specializations(exported.task, shapes, exported.positions)
    entries = with_windows(specializations(shapes, continuous=continuous), signature)
    if exported.images is None:
        return entries
    # Continuous batching prefills one prompt at a time, and has its images.
    return with_images(entries, exported.images, signature, rows=shapes.batch_size)


def reader_specializations(task: str, shapes: SpecializationSpec, most: int | None) -> tuple[Specialization, ...]:
    """In ascending order of their lengths; of several, each has its number. `most` are the positions of an encoder."""
    if task in _NAMES:
        return numbered(list(_of_lengths(task, shapes)))
    assert most is not None, "a graph that hears has positions"
    slots = shapes.encoder_ctx_len or most
    if slots > most:
        found = f"specialization.encoder_ctx_len: {slots}, but the encoder has {most} positions"
        raise SpecError("spec.range", found, hint="leave it out")
    return tuple(_of_speech(shapes, slots))


def _of_lengths(task: str, shapes: SpecializationSpec) -> Iterator[Specialization]:
    for length in input_lengths(shapes, task):
        yield Specialization(name=_NAMES[task], symbols={"batch_size": shapes.batch_size, "seq_len": length})


def _of_speech(shapes: SpecializationSpec, slots: int) -> Iterator[Specialization]:
    """The first run hears and gives a token; after it one frame stands for nothing new, and the cross cache is read."""
    common = {
        "batch_size": shapes.batch_size,
        "decoder_ctx_len": shapes.ctx_len,
        "encoder_ctx_len": slots,
        "seq_len": 1,
    }
    yield Specialization(name="Encoder", symbols={**common, "feature_len": 2 * slots})
    yield Specialization(name="Decode", symbols={**common, "feature_len": 1})
