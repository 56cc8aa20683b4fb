"""A two-layer decoder written by hand: checkpoint, neutral graph as an export leaves it, and its truth in numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from qeffbuild.graph.emit import Emitter
from qeffbuild.graph.files import save_graph
from qeffbuild.package import digest_of
from qeffbuild.signature import IoSignature, State, Tensor

VOCABULARY, WIDTH, LAYERS, POSITIONS, EOS = 61, 48, 2, 64, 60
HEADS, KV_HEADS, HEAD_WIDTH, INNER = 4, 2, 16, 80
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Decoder:
    """`fetched`, `exported` and `checkpoint` are folders that steps hand on; `weights` what the graph computes with."""

    fetched: Path
    exported: Path
    checkpoint: Path
    weights: dict[str, np.ndarray]
    softcap: float
    window: int | None

    def logits(self, token_ids: list[int]) -> np.ndarray:
        """[tokens, vocabulary], all tokens at once and without any cache."""
        w = self.weights
        positions = np.arange(len(token_ids))
        sees = positions[None] <= positions[:, None]
        if self.window:
            sees &= positions[None] > positions[:, None] - self.window
        x = w["wte.weight"][token_ids] + w["wpe.weight"][positions]
        for layer in range(LAYERS):
            h = normalised(x, w[f"h.{layer}.ln_1.weight"])
            q, k, v = (split(h @ w[f"h.{layer}.{name}_proj.weight"].T) for name in "qkv")
            k, v = (np.repeat(part, HEADS // KV_HEADS, axis=0) for part in (k, v))
            attended = attend(q, k, v, sees, HEAD_WIDTH**-0.5, self.softcap)
            attended = attended.transpose(1, 0, 2).reshape(len(token_ids), -1)
            x = x + attended @ w[f"h.{layer}.c_proj.weight"] + w[f"h.{layer}.c_proj.bias"]
            h = normalised(x, w[f"h.{layer}.ln_2.weight"])
            h = np.maximum(h @ w[f"h.{layer}.c_fc.weight"] + w[f"h.{layer}.c_fc.bias"], 0)
            x = x + h @ w[f"h.{layer}.c_out.weight"].T
        return normalised(x, w["ln_f.weight"]) @ w["wte.weight"].T


def normalised(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def split(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1, HEAD_WIDTH).transpose(1, 0, 2)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, sees: np.ndarray, scale: float, softcap: float) -> np.ndarray:
    scores = scale * q @ np.swapaxes(k, -1, -2)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    scores = np.where(sees, scores, np.finfo(scores.dtype).min)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v


def make_decoder(
    folder: Path, *, stored: str = "F32", dtype: str = "float32", softcap: float = 0.0, window: int | None = None
) -> Decoder:
    """Writes checkpoint, facts and neutral graph; `stored` is the checkpoint's dtype, `dtype` the graph's."""
    rng = np.random.default_rng(7)
    checkpoint, fetched, exported = folder / "model", folder / "fetch", folder / "export"
    for made in (checkpoint, fetched, exported):
        made.mkdir(parents=True)
    kind = np.dtype(ml_dtypes.bfloat16 if stored == "BF16" else DTYPES[stored])
    tensors = {
        name: (rng.standard_normal(shape) * scale + shift).astype(kind) for name, shape, scale, shift in _shapes()
    }
    save_file(tensors, checkpoint / "model.safetensors")
    _write_texts(checkpoint)
    facts = _facts(checkpoint, DTYPES[stored])
    (fetched / "facts.json").write_text(json.dumps(facts))
    files = {f.name: {"sha256": digest_of(f), "size": f.stat().st_size} for f in sorted(checkpoint.iterdir())}
    (fetched / "model.json").write_text(json.dumps({"schema": 1, "files": files}))

    graph = _Graph(facts["tensors"], ir.DataType.from_numpy(np.dtype(dtype)), softcap, window)
    save_graph(graph.model(), exported / "graph.onnx")
    signature(dtype, window).save(exported / "io.json")
    (exported / "export.json").write_text(json.dumps({"task": "causal-lm"}))
    weights = {name: array.astype(np.float32) for name, array in tensors.items()}
    return Decoder(fetched, exported, checkpoint, weights, softcap, window)


def signature(dtype: str = "float32", window: int | None = None) -> IoSignature:
    axes = ("batch_size", KV_HEADS, "ctx_len", HEAD_WIDTH)
    states = tuple(
        State(name=name, output=f"{name}_RetainedState", dtype=dtype, axes=axes, layer=i, kind=kind, window=window)
        for i in range(LAYERS)
        for kind in ("key", "value")
        for name in (f"past_{kind}.{i}",)
    )
    tokens = ("batch_size", "seq_len")
    return IoSignature(
        graph="decoder",
        inputs=(
            Tensor(name="input_ids", dtype="int64", axes=tokens),
            Tensor(name="position_ids", dtype="int64", axes=tokens),
            Tensor(name="logits_index", dtype="int64", axes=("batch_size", "num_logits")),
        ),
        outputs=(Tensor(name="logits", dtype="float32", axes=("batch_size", "num_logits", VOCABULARY)),),
        states=states,
    )


def _shapes() -> list[tuple[str, tuple[int, ...], float, float]]:
    """Name, shape, and the spread and centre of its values."""
    said: list[tuple[str, tuple[int, ...], float, float]] = [
        ("wte.weight", (VOCABULARY, WIDTH), 0.5, 0.0),
        ("wpe.weight", (POSITIONS, WIDTH), 0.3, 0.0),
        ("ln_f.weight", (WIDTH,), 0.1, 1.0),
    ]
    for i in range(LAYERS):
        said += [
            (f"h.{i}.ln_1.weight", (WIDTH,), 0.1, 1.0),
            (f"h.{i}.q_proj.weight", (HEADS * HEAD_WIDTH, WIDTH), 0.2, 0.0),
            (f"h.{i}.k_proj.weight", (KV_HEADS * HEAD_WIDTH, WIDTH), 0.2, 0.0),
            (f"h.{i}.v_proj.weight", (KV_HEADS * HEAD_WIDTH, WIDTH), 0.2, 0.0),
            (f"h.{i}.c_proj.weight", (HEADS * HEAD_WIDTH, WIDTH), 0.2, 0.0),  # [in, out], as GPT-2's Conv1D has it
            (f"h.{i}.c_proj.bias", (WIDTH,), 0.1, 0.0),
            (f"h.{i}.ln_2.weight", (WIDTH,), 0.1, 1.0),
            (f"h.{i}.c_fc.weight", (WIDTH, INNER), 0.2, 0.0),
            (f"h.{i}.c_fc.bias", (INNER,), 0.1, 0.0),
            (f"h.{i}.c_out.weight", (WIDTH, INNER), 0.2, 0.0),
        ]
    return said


def _write_texts(checkpoint: Path) -> None:
    config: dict[str, Any] = {"model_type": "hand", "architectures": ["HandForCausalLM"], "vocab_size": VOCABULARY}
    config |= {"n_positions": POSITIONS, "eos_token_id": EOS}
    (checkpoint / "config.json").write_text(json.dumps(config))
    words = {f"w{place}": place for place in range(VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def _facts(checkpoint: Path, dtype: str) -> dict[str, Any]:
    raw = (checkpoint / "model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, said in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = said["data_offsets"]
            where = {"file": "model.safetensors", "offset": 8 + size + start, "nbytes": end - start}
            tensors[name] = {**where, "dtype": dtype, "shape": said["shape"]}
    config = json.loads((checkpoint / "config.json").read_text())
    return {"schema": 1, "config": config, "generation_config": None, "task": "causal-lm", "tensors": tensors}


class _Graph:
    """The neutral graph, node by node, shapes said where lowerings look at them."""

    def __init__(self, tensors: dict[str, Any], dtype: ir.DataType, softcap: float, window: int | None) -> None:
        self.tensors, self.dtype, self.softcap, self.window = tensors, dtype, softcap, window
        said = signature(dtype.numpy().name, window)
        self.inputs = {
            item.name: ir.Value(
                name=item.name,
                shape=ir.Shape(item.axes),
                type=ir.TensorType(ir.DataType.from_numpy(np.dtype(item.dtype))),
            )
            for item in (*said.inputs, *said.states)
        }
        self.graph = ir.Graph(list(self.inputs.values()), [], nodes=[], opset_imports={"": 20}, name="decoder")
        self.emit = Emitter(self.graph, "n")

    def weight(self, name: str) -> ir.Value:
        """The stored tensor, converted where the graph computes in another dtype."""
        if name not in self.graph.initializers:
            said = self.tensors[name]
            stored, shape = ir.DataType.from_numpy(np.dtype(said["dtype"])), ir.Shape(said["shape"])
            tensor = ir.ExternalTensor(said["file"], said["offset"], said["nbytes"], stored, shape=shape, name=name)
            self.graph.initializers.add(
                ir.Value(name=name, shape=shape, type=ir.TensorType(stored), const_value=tensor)
            )
        value = self.graph.initializers[name]
        if value.dtype == self.dtype:
            return value
        return self.known(self.emit("Cast", value, to=self.dtype), [int(size) for size in value.shape.numpy()])

    def known(self, value: ir.Value, shape: list[Any]) -> ir.Value:
        value.shape, value.type = ir.Shape(shape), ir.TensorType(self.dtype)
        return value

    def number(self, value: float) -> np.ndarray:
        return np.array(value, self.dtype.numpy())

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        emit = self.emit
        mean = emit("ReduceMean", emit("Mul", x, x), [-1], keepdims=1)
        scaled = emit("Div", x, emit("Sqrt", emit("Add", mean, self.number(1e-5))))
        return self.known(emit("Mul", scaled, self.weight(name)), ["batch_size", "seq_len", WIDTH])

    def linear(self, x: ir.Value, name: str) -> ir.Value:
        leading = list(x.shape)[:-1] if x.shape is not None else ["batch_size", "seq_len"]
        made = self.emit("MatMul", x, self.emit("Transpose", self.weight(name), perm=[1, 0]))
        return self.known(made, [*leading, self.tensors[name]["shape"][0]])

    def conv1d(self, x: ir.Value, name: str, width: int, out: int) -> ir.Value:
        flat = self.emit("Reshape", x, [-1, width])
        made = self.emit("Gemm", flat, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
        shape = self.emit("Concat", self.emit("Shape", x, start=0, end=2), [out], axis=0)
        return self.emit("Reshape", made, shape)

    def heads(self, x: ir.Value, count: int) -> ir.Value:
        turned = self.emit("Transpose", self.emit("Reshape", x, [0, 0, count, HEAD_WIDTH]), perm=[0, 2, 1, 3])
        return self.known(turned, ["batch_size", count, "seq_len", HEAD_WIDTH])

    def mask(self) -> ir.Value:
        emit, positions = self.emit, self.inputs["position_ids"]
        row = emit("Unsqueeze", positions, [1, 3])
        context = emit("Squeeze", emit("Shape", self.inputs["past_key.0"], start=2, end=3))
        slot = emit("Range", 0, context, 1)
        sees = emit("And", emit("LessOrEqual", slot, row), emit("GreaterOrEqual", row, 0))
        if self.window:
            sees = emit("And", sees, emit("Greater", slot, emit("Sub", row, self.window)))
        return sees

    def model(self) -> ir.Model:
        emit, positions = self.emit, self.inputs["position_ids"]
        x = emit("Gather", self.weight("wte.weight"), self.inputs["input_ids"])
        x = emit("Add", x, emit("Gather", self.weight("wpe.weight"), emit("Max", positions, 0)))
        mask, outputs = self.mask(), []
        for i in range(LAYERS):
            h = self.norm(x, f"h.{i}.ln_1.weight")
            q = self.heads(self.linear(h, f"h.{i}.q_proj.weight"), HEADS)
            caches = []
            for kind in ("key", "value"):
                new = self.heads(self.linear(h, f"h.{i}.{kind[0]}_proj.weight"), KV_HEADS)
                past = self.inputs[f"past_{kind}.{i}"]
                cache = emit("CtxScatter", past, positions, new, domain="qeffbuild")
                cache.shape, cache.type, cache.name = past.shape, past.type, f"{past.name}_RetainedState"
                caches.append(cache)
            outputs += caches
            attended = emit(
                "Attention", q, *caches, mask, domain="qeffbuild", scale=HEAD_WIDTH**-0.5, softcap=self.softcap
            )
            self.known(attended, ["batch_size", "seq_len", HEADS, HEAD_WIDTH])
            attended = emit("Reshape", attended, [0, 0, -1])
            x = emit("Add", x, self.conv1d(attended, f"h.{i}.c_proj", HEADS * HEAD_WIDTH, WIDTH))
            h = self.norm(x, f"h.{i}.ln_2.weight")
            h = emit("Relu", self.conv1d(h, f"h.{i}.c_fc", WIDTH, INNER))
            x = emit("Add", x, self.linear(h, f"h.{i}.c_out.weight"))
        x = self.norm(x, "ln_f.weight")
        index = emit("Unsqueeze", self.inputs["logits_index"], [2])
        x = self.known(emit("GatherND", x, index, batch_dims=1), ["batch_size", "num_logits", WIDTH])
        logits = emit("Cast", self.linear(x, "wte.weight"), to=ir.DataType.FLOAT)
        logits.name, logits.type = "logits", ir.TensorType(ir.DataType.FLOAT)
        logits.shape = ir.Shape(["batch_size", "num_logits", VOCABULARY])
        self.graph.outputs.extend([logits, *outputs])
        self.graph.extend(emit.waiting())
        return ir.Model(self.graph, ir_version=10)
