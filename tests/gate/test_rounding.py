"""Integers in blocks against the weights that they were rounded from: what is honest passes, what is wrong does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from qeffbuild.errors import StepError
from qeffbuild.gate.rounding import Rounded, is_off, rounded
from qeffbuild.graph.files import load_graph, save_graph
from qeffbuild.graph.weights import Folder, Weights, checkpoint_folder
from qeffbuild.models import Facts

LLAMA = ("model.model_type=llama", "quantization=int4", "quantization.symmetric=false", "quantization.block_size=32")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def look(tiny) -> Callable[[Path], list[Rounded]]:
    """look(folder) is what the quantized graph of a folder is from the exact one."""
    build = tiny(*LLAMA)
    fetched = build.folder("fetch")
    facts = Facts.load(fetched / "facts.json")
    names = {(said.file, said.offset): name for name, said in facts.tensors.items()}
    before = build.folder("export")

    def found(folder: Path) -> list[Rounded]:
        places = (folder, build.folder("quantize"), before)
        weights = Weights(*map(Folder, places), checkpoint_folder(fetched, None))
        graphs = (load_graph(place / "graph.onnx").graph for place in (folder, before))
        return list(rounded(*graphs, weights, names))

    return found


@pytest.mark.parametrize("step", ["quantize", "lower"])  # where several products have become one
def test_every_product_is_known_and_honest(step: str, tiny, look: Callable[[Path], list[Rounded]]) -> None:
    found = look(tiny(*LLAMA).folder(step))

    nodes = load_graph(tiny(*LLAMA).folder(step) / "graph.onnx").graph
    assert len(found) == sum(node.op_type == "MatMulNBits" for node in nodes)
    assert not any(is_off(each, calibrated=False) for each in found)
    assert max(each.steps for each in found) > 0.2


FAULTS: dict[str, tuple[str, Callable[[np.ndarray], object]]] = {
    "a block of another row": ("numbers", lambda packed: np.copyto(packed[3, 0], packed[4, 0].copy())),
    "a block of the same row": ("numbers", lambda packed: np.copyto(packed[3, 1], packed[3, 0].copy())),
    "the two halves of bytes exchanged": ("numbers", lambda packed: np.copyto(packed, packed << 4 | packed >> 4)),
    "a scale twice as large": ("scales", lambda scales: np.copyto(scales[5:6], 2 * scales[5:6])),
    "a scale half as large": ("scales", lambda scales: np.copyto(scales[5:6], scales[5:6] / 2)),
    "a zero point off by one": ("zeros", lambda zeros: np.copyto(zeros[7:8], zeros[7:8] ^ 1)),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layer", [0, -1])
def test_a_wrong_block_of_any_layer_is_found(
    fault: str, layer: int, tiny, look: Callable[[Path], list[Rounded]], tmp_path: Path
) -> None:
    kind, spoil = FAULTS[fault]
    folder = tiny(*LLAMA).folder("quantize")
    model = load_graph(folder / "graph.onnx")
    name = [name for name in model.graph.initializers if name.endswith(f".{kind}")][layer]
    value = model.graph.initializers[name]
    array = np.array(Weights(Folder(folder)).array(value.const_value))
    spoil(array)
    value.const_value = ir.tensor(array, name=name)
    save_graph(model, tmp_path / "graph.onnx")

    wrong = [each for each in look(tmp_path) if is_off(each, calibrated=False)]

    assert [name.startswith(f"{each.name}.") for each in wrong] == [True]
    if kind == "numbers":
        assert [each for each in look(tmp_path) if is_off(each, calibrated=True)] == wrong


def test_a_gate_names_the_tensor_whose_integers_are_another_ones(tiny, exchanged, tmp_path: Path) -> None:
    build = tiny(*LLAMA)
    one, other = "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.gate_proj.weight"
    names = load_graph(build.folder("lower") / "graph.onnx").graph.initializers
    numbers = {each.rsplit(".", 3)[0]: each for each in names if each.endswith(".numbers")}
    wrong = exchanged(build.folder("lower"), tmp_path / "wrong", numbers[one], numbers[other])

    with pytest.raises(StepError) as stopped:
        build.gate(wrong, tmp_path, "export", "quantize")

    assert stopped.value.message.startswith(f"lower: {one}: a block is ")
