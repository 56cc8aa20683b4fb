"""Passes and forms drawn together: what a spec allows is built and held against eager PyTorch, on tiny random models.

    python tests/transforms/combine.py FIRST COUNT

It ends as `same`, as `refused` with an error of ours in one line, or as what it must never be: WRONG, an answer that is
another one, or FAILED, which is nobody's error.
"""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "backends" / "qaic"), str(HERE.parent)]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnx_ir as ir  # noqa: E402
import torch  # noqa: E402
from adapter_folders import merged  # noqa: E402
from dropped_writes import patch  # noqa: E402
from kitchen import HEADS, Kitchen, Model, planned, read  # noqa: E402
from played_device import Device  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from wishes import Draw, draw  # noqa: E402

from qeffbuild.cloud_ai_100.form import Form  # noqa: E402
from qeffbuild.cloud_ai_100.lower import lower  # noqa: E402
from qeffbuild.errors import QeffBuildError  # noqa: E402
from qeffbuild.graph.files import load_graph, save_graph  # noqa: E402
from qeffbuild.graph.weights import Folder, Weights  # noqa: E402
from qeffbuild.graph.write import write_weights  # noqa: E402
from qeffbuild.plan import Plan  # noqa: E402
from qeffbuild.runtime.engine import Engine  # noqa: E402
from qeffbuild.runtime.scheduler import Row  # noqa: E402
from qeffbuild.signature import IoSignature  # noqa: E402

ROWS, CHUNK, CONTEXT, DECODED = 3, 8, 32, 3
SIZES = f"specialization.batch_size={ROWS} specialization.prefill_seq_len={CHUNK} specialization.ctx_len={CONTEXT}"
PROMPTS = (
    [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6],
    [27, 18],
    [11, 12, 13, 14, 15, 16, 17, 18, 9],
)

# Most of the largest difference of a logit, in the largest logit.
ERROR = {"float32": 2e-4, "float16": 2e-2, "bfloat16": 1.5e-1}
QUANTIZED = 2e-1
LENGTHS_FORM = "comp_ctx_lengths"  # the compiler's least length is above these contexts: asked of the form alone


def check(drawn: Draw, kitchen: Kitchen) -> str:
    """What came of it, in one line that begins with `same` or `refused`, or with WRONG or FAILED."""
    try:
        return _check(drawn, kitchen)
    except QeffBuildError as error:
        return f"refused {error.message}" if "\n" not in error.message and error.hint else f"FAILED {error!r}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"FAILED {type(error).__name__} {str(error).strip()[:300]!r} at {where.filename}:{where.lineno}"


def _check(drawn: Draw, kitchen: Kitchen) -> str:
    model = kitchen.model(drawn.family)
    words = ["model=hf", "model.scale=tiny", f"model.model_type={drawn.family}", "gate=none", *SIZES.split()]
    words = [*words, f"backend={drawn.backend}", *_words(drawn, model)]
    spec = read(words)
    plan = planned(spec)
    expected = _expected(drawn, model)
    errors = _embedded(kitchen, plan, expected, drawn) if drawn.backend == "onnxruntime" else _device(
        kitchen, plan, expected, drawn, model
    )  # fmt: skip
    is_rounded = drawn.has("quantization") or drawn.has("embedding_bits")
    most = QUANTIZED if is_rounded else ERROR[spec.model.dtype]
    # Where numbers are rounded, another expert may be chosen here and there.
    found = float(max(errors) if most == ERROR["float32"] else np.median(errors))
    return f"{'same' if found <= most else 'WRONG'} {found:.1e}"


def _words(drawn: Draw, model: Model) -> Iterator[str]:
    for _, words in drawn.wishes:
        for word in words.split():
            if word == "ADAPTERS":
                is_one = "transforms.lora=inputs" in words
                yield from (
                    f"adapters.{name}={path}" for name, path in list(model.adapters.items())[: 1 + (not is_one)]
                )
            elif word != "LENGTHS":
                yield word.replace("HEADS_FILE", str(model.heads))


@dataclass(frozen=True)
class Expected:
    """Of each row its text, and what PyTorch says of it: logits [S, V] and what the head reads [S, H]."""

    texts: tuple[list[int], ...]
    logits: tuple[np.ndarray, ...]
    hidden: tuple[np.ndarray, ...]


def _expected(drawn: Draw, model: Model) -> Expected:
    network = model.network
    if drawn.has("lora"):
        network = merged(copy.deepcopy(network), model.adapters["first"])
    texts = tuple([*prompt, *range(40, 40 + DECODED)] for prompt in PROMPTS)
    logits, hidden = [], []
    head = network.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, inputs: hidden.append(inputs[0][0].numpy()))
    with torch.no_grad():
        for text in texts:
            logits.append(network(torch.tensor([text]), use_cache=False).logits[0].numpy())
    hook.remove()
    return Expected(texts, tuple(logits), tuple(hidden))


def _embedded(kitchen: Kitchen, plan: Plan, expected: Expected, drawn: Draw) -> list[float]:
    engine = Engine.open(kitchen.folder(plan, "package"), threads=1)
    adapter = engine.adapters.id_of(None)
    engine._load(adapter)
    errors = []
    scale = max(float(np.abs(logits).max()) for logits in expected.logits)
    for start, width, counts in _turns():
        rows = [
            Row(row, start(row), expected.texts[row][start(row) : start(row) + count], adapter)
            for row, count in enumerate(counts)
            if count
        ]
        made = engine.state.run(width, rows, keep=0)
        for row in rows:
            wanted = expected.logits[row.slot][row.start : row.start + len(row.token_ids)]
            found = made[row.slot, : len(row.token_ids), : wanted.shape[1]]
            errors.append(float(np.abs(found - wanted).max()) / scale)
    return errors


def _turns() -> Iterator[tuple[Any, int, list[int]]]:
    """Where each row starts, the width of the run, and how many tokens each row has: chunks, then single tokens."""
    for at in range(0, max(map(len, PROMPTS)), CHUNK):
        yield (lambda row, at=at: at), CHUNK, [min(max(len(prompt) - at, 0), CHUNK) for prompt in PROMPTS]
    for step in range(DECODED):
        yield (lambda row, step=step: len(PROMPTS[row]) + step), 1, [1] * ROWS


def _device(kitchen: Kitchen, plan: Plan, expected: Expected, drawn: Draw, model: Model) -> list[float]:
    lowered = kitchen.folder(plan, "lower")
    signature = IoSignature.load(lowered / "io.json")
    graph = load_graph(lowered / "graph.onnx")
    if drawn.has("lengths"):  # as the step would with lengths that a compiler takes
        (before,) = plan["lower"].inputs.values()
        graph = load_graph(kitchen.folder(plan, before) / "graph.onnx")
        neutral = IoSignature.load(kitchen.folder(plan, before) / "io.json")
        signature = lower(graph, neutral, Form(**{**plan["lower"].params, LENGTHS_FORM: True}))
    folders = [Folder(kitchen.folder(plan, name)) for name in ("transform", "export") if name in {s.name for s in plan}]
    with TemporaryDirectory() as folder:
        weights = Weights(*folders, Folder(model.folder, is_checkpoint=True))
        write_weights(graph, weights, Path(folder) / "graph.data")
        if not _computes_here(graph, signature):
            check_types(graph, Path(folder))
            return [0.0]
        device = Device(graph, signature, ROWS, Path(folder), CONTEXT)
        if (given := next(iter(_adapter_folder(folders)), None)) is not None:
            kinds = {state.name: state.dtype for state in signature.states}
            device.states |= {name: array.astype(kinds[name]) for name, array in load_file(given).items()}
        return _run_device(device, signature, expected, drawn, model)


def _computes_here(graph: ir.Model, signature: IoSignature) -> bool:
    """ONNX Runtime has no operators for bfloat16 on a processor, and in float16 adds up nothing while it scatters."""
    kinds = {state.dtype for state in signature.states}
    nodes = chain(graph.graph.all_nodes(), *(function.all_nodes() for function in graph.functions.values()))
    adds = any(node.op_type == "ScatterElements" and "reduction" in node.attributes for node in nodes)
    return "bfloat16" not in kinds and not (adds and "float16" in kinds)


def check_types(graph: Any, folder: Path) -> None:
    patch(graph)
    save_graph(graph, folder / "graph.onnx")
    onnx.checker.check_model(str(folder / "graph.onnx"), full_check=True)


def _adapter_folder(folders: list[Folder]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((folder.path / "adapters").glob("first.safetensors"))


def _run_device(device: Device, signature: IoSignature, expected: Expected, drawn: Draw, model: Model) -> list[float]:
    asked = {tensor.name for tensor in signature.inputs}
    prefilled = {"specialization.logits_to_keep=3": 3, "specialization.logits_to_keep=0": CHUNK}
    kept_by_prefill = prefilled.get(dict(drawn.wishes).get("logits_to_keep", ""), 1)
    errors = []
    for start, width, counts in _turns():
        busy = [row for row, count in enumerate(counts) if count]
        groups = [[row] for row in busy] if "batch_index" in asked and width > 1 else [list(range(ROWS))]
        for rows in groups:
            ids, positions = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -1)
            for place, row in enumerate(rows):
                count, first = counts[row], start(row)
                ids[place, :count] = expected.texts[row][first : first + count]
                positions[place, :count] = range(first, first + count)
            kept = min(kept_by_prefill, width) if "num_logits_to_keep" in asked else 1
            feed = _feed(asked, ids, positions, rows, kept, model)
            made = device.feed(**feed)
            for place, row in enumerate(rows):
                last = start(row) + counts[row] - 1
                if counts[row]:
                    count = min(kept, counts[row])
                    errors.append(_difference(made, place, count, expected, row, last, model))
    return errors


def _feed(
    asked: set[str], ids: np.ndarray, positions: np.ndarray, rows: list[int], kept: int, model: Model
) -> dict[str, np.ndarray]:
    count = len(ids)
    words = model.network.get_output_embeddings().weight.shape[0]
    table = model.network.get_input_embeddings().weight.detach().numpy()
    column = np.zeros((count, 1), np.float32)
    given = {
        "input_ids": ids,
        "inputs_embeds": table[ids],
        "position_ids": positions,
        "comp_ctx_lengths": np.zeros(CONTEXT - 1, np.int64),
        "batch_index": np.array(rows)[:, None],
        "num_logits_to_keep": np.zeros((kept, 1), np.int64),
        "lora_ids": np.ones((count, 1), np.int64),
        "last_accepted_output_tokens": np.where(positions < 0, -1, ids),
        "repetition_penalties": column + 1,
        "presence_penalties": column,
        "temperatures": column,
        "top_ks": np.zeros((count, 1), np.int32),
        "top_ps": column + 1,
        "min_ps": column,
        "random_numbers": np.full((count, min(512, words)), 0.5, np.float32),
    }
    return {name: given[name] for name in asked}


def _difference(
    made: Mapping[str, np.ndarray], place: int, count: int, expected: Expected, row: int, last: int, model: Model
) -> float:
    """The largest, in the largest logit. Of a sampler: whether the token is (nearly) the likeliest."""
    wanted = expected.logits[row][last + 1 - count : last + 1]
    scale = float(np.abs(expected.logits[row]).max())
    if "next_tokens" in made:
        tokens = made["next_tokens"][place, :count, 0]
        assert (made["probs"][place, :count].argmax(-1) == tokens).all()
        return max(float(logits.max() - logits[token]) / scale for logits, token in zip(wanted, tokens, strict=True))
    if "hidden_states" in made:
        hidden = expected.hidden[row][last + 1 - count : last + 1]
        return float(np.abs(made["hidden_states"][place, :count] - hidden).max() / np.abs(hidden).max())
    logits = made["logits"][place, :count]
    if logits.ndim == 2:
        return float(np.abs(logits[:, : wanted.shape[1]] - wanted).max()) / scale
    worst = float(np.abs(logits[:, 0, : wanted.shape[1]] - wanted).max()) / scale
    heads, hidden = load_file(model.heads), torch.from_numpy(expected.hidden[row][last + 1 - count : last + 1])
    bound = getattr(model.network.config.get_text_config(), "final_logit_softcapping", None)
    for head in range(HEADS):
        weight, bias = (torch.from_numpy(heads[f"{head}.0.linear.{what}"]) for what in ("weight", "bias"))
        with torch.no_grad():
            ahead = model.network.get_output_embeddings()(
                hidden + torch.nn.functional.silu(torch.nn.functional.linear(hidden, weight, bias))
            )
            if bound:
                ahead = torch.tanh(ahead / bound) * bound
        worst = max(worst, float(np.abs(logits[:, 1 + head] - ahead.numpy()).max()) / scale)
    return worst


if __name__ == "__main__":
    first, count = (int(word) for word in sys.argv[1:3])
    with TemporaryDirectory(dir=sys.argv[3] if len(sys.argv) > 3 else None) as root:
        kitchen = Kitchen(Path(root))
        for number in range(first, first + count):
            drawn = draw(number)
            sys.stdout.write(f"{number:5d} {drawn}: {check(drawn, kitchen)}\n")
            sys.stdout.flush()
