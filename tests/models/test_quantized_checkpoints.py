"""A checkpoint that another tool quantized, through every step: the package says what the decoded weights say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from encoders import encode, plain_llama

from qeffbuild.actions import check, export, fetch, package
from qeffbuild.backends.onnxruntime import lower
from qeffbuild.backends.onnxruntime.session import open_session
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph
from qeffbuild.models import DEMO
from qeffbuild.package import Package

TOKENS = np.random.default_rng(5).integers(0, 2048, (2, 12))
OF_FETCH = {"scale": "full", "allow_pickle": False, "trust_remote_code": False}
OF_CHECK = {
    "task": "auto", "trust_remote_code": False, "allow_pickle": False, "allow_nonfinite": False, "ctx_len": 32, "seq_len": [],
    "allow_extended_context": False, "kv_head_replication": 1, "num_devices": 1, "mdp_num_partitions": 1,
}  # fmt: skip
OF_PACKAGE = {
    "backend": "onnxruntime",
    "session": "qeffbuild.backends.onnxruntime.session",
    "allow_nonfinite": False,
    "quantization": {"method": "none"},
    "specialization": {"batch_size": 2, "prefill_seq_len": 12, "ctx_len": 16},
}


def build(folder: Path, out: Path) -> Package:
    leaf = {"model": folder}

    def step(name: str, action: object, params: dict, inputs: dict[str, str]) -> Path:
        (out / name).mkdir(parents=True)
        made = {role: out / step for role, step in inputs.items()}
        action.run(Work(name=name, params=params, inputs=made, leaves=leaf, out=out / name))  # type: ignore[attr-defined]
        return out / name

    step("fetch", fetch, OF_FETCH, {})
    step("check", check, OF_CHECK, {"model": "fetch"})
    step("export", export, {"dtype": "float32", "task": "auto", "trust_remote_code": False}, {"model": "fetch"})
    step("lower", lower, {"attention": "auto", "recurrence": "chunked"}, {"graph": "export"})
    step("package", package, OF_PACKAGE, {"graph": "lower", "model": "fetch", "exported": "export"})
    return Package.open(out / "package", verify=True)


def logits_of(package: Package) -> np.ndarray:
    session = open_session(package, threads=1)
    positions = np.tile(np.arange(12), (2, 1))
    feed = {"input_ids": TOKENS, "position_ids": positions, "logits_index": positions}
    return session.run("decoder", feed, session.allocate("decoder", 2, 16))["logits"].copy()


def logits_of_transformers(folder: Path, values: dict[str, np.ndarray]) -> np.ndarray:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    said = json.loads((folder / "config.json").read_text())
    model = LlamaForCausalLM(LlamaConfig.from_dict({k: v for k, v in said.items() if k != "quantization_config"}))
    model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in values.items()}, strict=False)
    with torch.inference_mode():
        return model.float().eval()(torch.from_numpy(TOKENS)).logits.numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most", "form"),
    [("gptq act-order", 0.02, "4 bits in blocks of 32, as stored"), ("fp8 in blocks", 1e-5, "floats: fp8")],
)
def test_the_package_computes_with_the_decoded_weights(tmp_path: Path, name: str, most: float, form: str) -> None:
    values = encode(plain_llama(tmp_path / "plain", DEMO), tmp_path / "model", name)

    package = build(tmp_path / "model", tmp_path)
    found = logits_of(package)

    truth = logits_of_transformers(tmp_path / "model", values)
    # MatMulNBits rounds activations to 8 bits.
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < most
    ((said, count),) = package.manifest["quantization"]["checkpoint"].items()
    assert (said.startswith(form), count) == (True, 14)
    kinds = [node.op_type for node in load_graph(package.graph()).graph]
    assert kinds.count("MatMulNBits") == (14 if "4 bits" in form else 0)
    assert not {"Decode", "Blocks"} & set(kinds)
