"""Small models of every family, exported and run by ONNX Runtime beside PyTorch."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from qeffbuild.export import Report, export
from qeffbuild.export.shrink import small
from qeffbuild.export.skeleton import configuration, small_model
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.ops import lower_portable
from qeffbuild.signature import IoSignature

sys.path.insert(0, str(Path(__file__).parent))  # the families' list serves two files

CTX_LEN, VOCABULARY = 40, 256
NUMPY = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LAYERS = ("num_hidden_layers", "n_layer", "n_layers")


def _facts_of(folder: Path) -> dict[str, Any]:
    """facts.json of a folder that save_pretrained wrote."""
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        for name, said in header.items():
            if name == "__metadata__":
                continue
            begin, end = said["data_offsets"]
            where = {"file": path.name, "offset": 8 + size + begin, "nbytes": end - begin}
            tensors[name] = {**where, "dtype": NUMPY[said["dtype"]], "shape": said["shape"]}
    return {"schema": 1, "config": json.loads((folder / "config.json").read_text()), "tensors": tensors}


def _small_config(model_type: str, **changes: Any) -> Any:
    """A configuration with three layers of each kind (so that most are copies), and `changes`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    whole = CONFIG_MAPPING[model_type](**changes)
    said = small(whole.to_dict(), whole)
    count = next(said[name] for name in LAYERS if isinstance(said.get(name), int))
    for name, value in said.items():
        if name in LAYERS and isinstance(value, int):
            said[name] = 3 * count
        elif isinstance(value, list) and len(value) == count and name != "architectures":
            said[name] = value * 3
    return configuration(said)


@dataclass
class Exported:
    """One exported model: PyTorch's, the report, the signature, and the graph in a session."""

    model: Any
    report: Report
    signature: IoSignature
    folder: Path
    session: onnxruntime.InferenceSession

    def states(self, rows: int) -> dict[str, np.ndarray]:
        sizes = {"batch_size": rows, "ctx_len": CTX_LEN}
        return {
            state.name: np.zeros([sizes.get(axis, axis) for axis in state.axes], state.dtype)
            for state in self.signature.states
        }

    def step(
        self, states: dict[str, np.ndarray], tokens: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Run right-padded rows whose first tokens are at `starts`; logits of each row's last token, and new states."""
        width = max(map(len, tokens))
        ids = np.zeros((len(tokens), width), np.int64)
        positions = np.full((len(tokens), width), -1, np.int64)
        for row, (said, start) in enumerate(zip(tokens, starts, strict=True)):
            ids[row, : len(said)] = said
            positions[row, : len(said)] = np.arange(start, start + len(said))
        last = np.array([[max(len(said) - 1, 0)] for said in tokens])
        feed = {"input_ids": ids, "position_ids": positions, "logits_index": last, **states}
        logits, *after = self.session.run(None, feed)
        return logits[:, 0], {s.name: value for s, value in zip(self.signature.states, after, strict=True)}

    @torch.no_grad()
    def reference(self, tokens: Sequence[int]) -> np.ndarray:
        """PyTorch's logits at every position of one row, all at once and without a cache."""
        return self.model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0].numpy()

    @torch.no_grad()
    def cached_reference(self, prompt: Sequence[int], decoded: Sequence[int]) -> np.ndarray:
        """PyTorch's last logits after the prompt and after each decoded token, with its own cache."""
        out = self.model(input_ids=torch.tensor([list(prompt)]), use_cache=True)
        said = [out.logits[0, -1]]
        for token in decoded:
            past = out.past_key_values
            out = self.model(input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True)
            said.append(out.logits[0, -1])
        return torch.stack(said).numpy()


def session_of(graph: Path, checkpoint: Path) -> onnxruntime.InferenceSession:
    lowered = checkpoint / "lowered.onnx"
    save_graph(lower_portable(load_graph(graph)), lowered)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(lowered, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="session")
def facts_of() -> Callable[[Path], dict[str, Any]]:
    return _facts_of


@pytest.fixture(scope="session")
def session_for() -> Callable[[Path, Path], onnxruntime.InferenceSession]:
    """session_for(graph.onnx, folder of its weights) -> a session of its portable form."""
    return session_of


@pytest.fixture(scope="session")
def small_config() -> Callable[..., Any]:
    return _small_config


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """exported("llama", sliding_window=8, ...) -> Exported, made once; `stored` converts the weights before saving."""
    torch.set_num_threads(1)
    made: dict[str, Exported] = {}

    def once(model_type: str, *, stored: str = "float32", **changes: Any) -> Exported:
        words = repr((model_type, stored, changes))
        if words not in made:
            made[words] = _exported(tmp_path_factory.mktemp(model_type), _small_config(model_type, **changes), stored)
        return made[words]

    return once


@pytest.fixture(scope="session")
def exported_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Exported]:
    """exported_config(configuration) -> Exported, made once for equal ones."""
    torch.set_num_threads(1)
    made: dict[str, Exported] = {}

    def once(config: Any) -> Exported:
        words = config.to_json_string(use_diff=False)
        if words not in made:
            made[words] = _exported(tmp_path_factory.mktemp(config.model_type), config, "float32")
        return made[words]

    return once


def _exported(folder: Path, config: Any, stored: str) -> Exported:
    model = small_model(config)
    for parameter in model.parameters():  # not the rotary tables, which no checkpoint holds
        parameter.data = parameter.to(getattr(torch, stored))
    model.save_pretrained(folder)
    out = folder / "exported"
    out.mkdir()
    report = export(_facts_of(folder), out)
    return Exported(
        model=model.float(),
        report=report,
        signature=IoSignature.load(out / "io.json"),
        folder=out,
        session=session_of(out / "graph.onnx", folder),
    )
