"""The hand-written decoder through the steps behind the export, and through a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from neutral_decoder import Decoder

from qeffbuild.actions import package as packaging
from qeffbuild.actions import quantize
from qeffbuild.backends.onnxruntime import lower, rowwise
from qeffbuild.backends.onnxruntime.session import Session
from qeffbuild.executor.work import Work
from qeffbuild.package import Package


def build(
    decoder: Decoder,
    folder: Path,
    *,
    attention: str = "auto",
    quantization: dict[str, Any] | None = None,
    prefill: bool = False,
    prepack: bool = False,
    values: str = "plain",
    embedding_bits: int | None = None,
    calibration: Path | None = None,
) -> Package:
    """The steps behind the export, in a row; with `prefill`, the form for prompts, too."""
    graph, inputs, leaves = decoder.exported, {"model": decoder.fetched}, {"model": decoder.checkpoint}
    roles = {**inputs, "exported": decoder.exported}
    if calibration is not None:
        leaves["calibration"] = calibration
    if quantization:
        out = folder / "quantize"
        out.mkdir(parents=True)
        quantize.run(
            Work(name="quantize", params=quantization, inputs={**inputs, "graph": graph}, leaves=leaves, out=out)
        )
        graph = roles["quantized"] = out
    lowered, packaged = folder / "lower", folder / "package"
    words: dict[str, Any] = {"attention": attention, "recurrence": "chunked"}
    words |= {} if embedding_bits is None else {"embedding_bits": embedding_bits}
    lowered.mkdir(parents=True)
    packaged.mkdir()
    lower.run(
        Work(
            name="lower",
            params=words,
            inputs={"graph": graph},
            leaves={},
            out=lowered,
        )
    )
    if prefill:
        roles["rowwise"], roles["prefill"] = folder / "quantize[prefill]", folder / "lower[prefill]"
        for role in ("rowwise", "prefill"):
            roles[role].mkdir()
        exported = {**inputs, "graph": decoder.exported}
        rowwise.run(
            Work(name="", params={"keep": [], "values": values}, inputs=exported, leaves=leaves, out=roles["rowwise"])
        )
        rounded = {"graph": roles["rowwise"], "kv_scales": graph}
        lower.run(
            Work(
                name="",
                params=words,
                inputs=rounded,
                leaves={},
                out=roles["prefill"],
            )
        )
    params = {
        "backend": "onnxruntime",
        "session": "qeffbuild.backends.onnxruntime.session",
        "allow_nonfinite": False,
        "quantization": quantization or {"method": "none"},
        "specialization": {"batch_size": 2, "prefill_seq_len": 4, "ctx_len": 16},
    }
    if prepack:
        params["prepack"] = "qeffbuild.backends.onnxruntime.prepack"
    work = Work(name="package", params=params, inputs={**roles, "graph": lowered}, leaves=leaves, out=packaged)
    packaging.run(work)
    return Package.open(packaged, verify=True)


def generate(session: Session, prompts: list[list[int]], chunk: int, ctx_len: int = 16) -> list[np.ndarray]:
    """Feeds every prompt in padded chunks and collects the logits of each of its tokens."""
    rows = len(prompts)
    states = session.allocate("decoder", rows, ctx_len)
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for start in range(0, max(map(len, prompts)), chunk):
        tokens, positions = np.zeros((rows, chunk), np.int64), np.full((rows, chunk), -1)
        for row, prompt in enumerate(prompts):
            part = prompt[start : start + chunk]
            tokens[row, : len(part)] = part
            positions[row, : len(part)] = np.arange(start, start + len(part))
        feed = {"input_ids": tokens, "position_ids": positions}
        feed["logits_index"] = np.tile(np.arange(chunk), (rows, 1))
        logits = session.run("decoder", feed, states)["logits"]
        for row, prompt in enumerate(prompts):
            found[row].extend(logits[row, : len(prompt[start : start + chunk])].copy())
    return [np.stack(each) for each in found]
