"""Who is measured: engines, the forms of the weights that they have, and on which models."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.peers.models import NAMES

SMALL, MIDDLE, LARGE = "demo", "llama-160m", "llama-1.1b"
CONTEXTS = {"demo": 512, "gpt2-124m": 1024}  # all others 1,152
PREFILL = 256


@dataclass(frozen=True, slots=True)
class Variant:
    """One engine with one form of the weights. `words` are its own: overrides, or a name that it has for a form."""

    name: str
    engine: str
    words: tuple[str, ...]
    bits: int  # of most weights: who is compared with whom
    models: tuple[str, ...] = NAMES

    @property
    def is_ours(self) -> bool:
        return self.engine == "qeffbuild"


def _ours(name: str, *words: str, bits: int, models: tuple[str, ...] = NAMES) -> Variant:
    return Variant(name, "qeffbuild", words, bits, models)


FAST = "backend.profile=fast"
VARIANTS = (
    Variant("transformers fp32", "transformers", (), 32),
    _ours("qeffbuild fp32", bits=32, models=(SMALL, MIDDLE)),
    _ours("int8 fast", "quantization=int8", FAST, bits=8),
    _ours("int8", "quantization=int8", bits=8),
    _ours(
        "int8 fast, int8 cache", "quantization=int8", "quantization.kv_cache=int8", FAST, bits=8, models=(MIDDLE,),
    ),
    Variant("llama.cpp q8_0", "llama.cpp", ("q8_0",), 8),
    Variant("OpenVINO int8", "openvino", ("int8",), 8, (MIDDLE,)),
    Variant("onnxruntime-genai int8", "onnxruntime-genai", ("int8",), 8, (MIDDLE, LARGE)),
    _ours("int4 fast", "quantization=int4", FAST, bits=4),
    _ours(
        "int4 fast, blocks of 256", "quantization=int4", "quantization.block_size=256", FAST, bits=4,
        models=(SMALL, MIDDLE, "gpt2-124m"),  # random weights of the largest lose too much by it to pass the gate
    ),
    _ours(
        "int4 fast, blocks of 256, int8 cache", "quantization=int4", "quantization.block_size=256", FAST,
        "quantization.kv_cache=int8", bits=4, models=(MIDDLE,),
    ),
    _ours("gptq fast", "quantization=gptq", FAST, bits=4, models=(SMALL,)),
    Variant("llama.cpp q4_0", "llama.cpp", ("q4_0",), 4),
    Variant("OpenVINO int4", "openvino", ("int4",), 4, (MIDDLE,)),
    Variant("onnxruntime-genai int4", "onnxruntime-genai", ("int4",), 4, (MIDDLE, LARGE)),
    Variant("optimum-onnx fp32", "optimum-onnx", (), 32, (MIDDLE,)),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is asked of all variants of one model together. `score`: KL too, which needs PyTorch and takes longest."""

    model: str
    threads: int
    prompts: tuple[int, ...]
    rounds: int
    score: bool

    @property
    def name(self) -> str:
        return f"{self.model}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    def wants(self, variant: Variant) -> bool:
        """All cores are for those that are quick; PyTorch of a large model is there for its distributions only."""
        return self.model in variant.models and (self.score or variant.engine in ("qeffbuild", "llama.cpp"))


def jobs(models: list[str], prompts: list[int], rounds: int, cores: int) -> list[Job]:
    one = [
        Job(
            model=model, threads=1, rounds=min(rounds, 3) if model == LARGE else rounds, score=True,
            prompts=tuple(length for length in prompts if length <= 256 or model == MIDDLE),
        )
        for model in models
    ]  # fmt: skip
    short = tuple(length for length in prompts if length <= 256)
    all_cores = [Job(model=model, threads=cores, prompts=short, rounds=3, score=False) for model in models]
    return one + (all_cores if cores > 1 else [])
