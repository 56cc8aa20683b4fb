"""The nouns of a build: frozen values without I/O, torch or OmegaConf.

Each has a docstring: without one, dataclasses works one out from the signature, which takes longer than all the rest.
Each field's metadata says its bounds and, in one line, its meaning: `load` checks them, the documentation prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

BASE = "base"  # the name under which a model with adapters answers without any

Scale = Literal["full", "tiny"]
Task = Literal[
    "auto",
    "causal-lm",
    "embedding",
    "sequence-classification",
    "ctc",
    "speech-seq2seq",
    "text-seq2seq",
    "image-text",
]
Pooling = Literal["auto", "none", "mean", "max", "cls", "last"]
BlockingMode = Literal[
    "none", "kv", "q", "h", "b", "qkv", "hkv", "hq", "bkv", "bq", "bh", "hqkv", "bqkv", "bhkv", "bhq", "bhqkv"
]  # fmt: skip
Dtype = Literal["float32", "float16", "bfloat16"]


def option(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    one_or_many: bool = False,
    place: bool = False,
) -> Any:
    """A field with a meaning and inclusive bounds (for a tuple: of each item).

    With `one_or_many`, a bare value stands for a tuple of one. A `place` says where something lies on this machine.
    """
    metadata = {"doc": doc, "low": low, "high": high, "one_or_many": one_or_many, "place": place}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Where the weights come from. Exactly one of `path` and `id`; `scale=tiny` needs neither."""

    name: str = option("hf", "the name of the choice; shown, never part of a key")
    path: str | None = option(
        None, "a local Hugging Face folder, or a GGUF file; relative to the working folder", place=True
    )
    id: str | None = option(None, "a model on the Hugging Face hub, ORG/NAME")
    revision: str | None = option(None, "the hub commit, 40 hex digits (or a branch, refused by --frozen)")
    model_type: str | None = option(None, "transformers' model_type; needed by scale=tiny only")
    task: Task = option("auto", "what the model does; auto reads it from config.json")
    pooling: Pooling = option(
        "auto",
        "how token vectors become an embedding; none: not at all; auto: as the model's modules.json says, else mean",
    )
    normalize: bool | None = option(None, "embeddings of length 1; null: as the model's modules.json says, else no")
    kv_offload: bool = option(
        True, "of models that see: true: vision and language are two graphs, false: one, which sees anew in every run"
    )
    scale: Scale = option("full", "tiny: two random layers of the same model_type, for a try-out in seconds")
    dtype: Dtype = option("float32", "the dtype that the graph computes in")
    trust_remote_code: bool = option(False, "run the model repository's own Python code (pinned revision only)")
    allow_pickle: bool = option(False, "read weights from pickle files, which can run code")
    allow_nonfinite: bool = option(False, "accept NaN and Inf in the weights")
    allow_extended_context: bool = option(False, "allow ctx_len beyond max_position_embeddings")
    kv_head_replication: int = option(
        1, "how often each KV head is repeated, so that heads divide over devices", low=1, high=64
    )
    max_position_embeddings: int | None = option(
        None, "known before the model is fetched, to check ctx_len early", low=1
    )
    num_hidden_layers: int | None = option(None, "known before the model is fetched", low=1)
    num_key_value_heads: int | None = option(None, "known before the model is fetched", low=1)
    example_prompts: tuple[str, ...] = option((), "what `run` says when no prompt is given")
    eval_file: str | None = option(None, "the text that `eval` measures on when eval_file names none", place=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationSpec:
    """How weights and cache are made smaller."""

    method: str = option("none", "none, int8, int4, ...: a file of qeffbuild/quantizers")
    bits: int | None = option(None, "bits of one weight", low=2, high=16)
    block_size: int | None = option(None, "weights that share one scale: 16, 32, 64, 128 or 256", low=16, high=256)
    attention_bits: int | None = option(
        None,
        "bits of the weights that values go through, into attention and out of it, 4 or 8; null: as the others",
        low=2,
        high=16,
    )
    attention_block_size: int | None = option(
        None, "block size of the weights that values go through; null: as the others", low=16, high=256
    )
    query_block_size: int | None = option(
        None, "block size of the weights that make queries or keys and no values; null: as the others", low=16, high=256
    )
    down_block_size: int | None = option(
        None,
        "block size of all other weights that give fewer numbers than they read; null: as the others",
        low=16,
        high=256,
    )
    head_block_size: int | None = option(
        None, "block size of the weight that makes the logits; null: as the others", low=16, high=256
    )
    symmetric: bool = option(True, "no zero points")
    keep: tuple[str, ...] = option((), "glob patterns of weights that stay unquantized, such as lm_head*")
    calibration: str = option(
        "package:models/demo/calibration.txt", "the text that awq and gptq calibrate on", place=True
    )
    calibration_tokens: int = option(32768, "tokens of it, spread evenly over the text", low=2, high=1 << 24)
    budget: float | None = option(
        None,
        "most KL against the exact model on the calibration text; weights get 8 bits until then",
        low=0.0,
        high=10.0,
    )
    kv_cache: Literal["float", "int8", "mxint8"] = option(
        "float", "int8: keys and values in 8 bits, by calibrated scales; mxint8: rounded as that format would"
    )
    mxfp6_matmul: bool = option(False, "compiler: weights of matrix products in MXFP6")
    mxint8_kv_cache: bool = option(False, "compiler: keys and values in MXINT8")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecializationSpec:
    """The static shapes that the compiler specialises for, in QEfficient's words."""

    batch_size: int = option(1, "rows of one run", low=1, high=4096)
    prefill_seq_len: int = option(32, "tokens of one prefill chunk", low=1, high=1 << 20)
    ctx_len: int = option(
        128,
        "slots of the KV cache: prompt and answer together; as many as the model has positions, where those are fewer "
        "and nobody chose",
        low=1,
        high=1 << 24,
    )
    seq_len: tuple[int, ...] = option(
        (),
        "lengths that an encoder is compiled for, in tokens (sound: in samples), the smallest that fits is run; "
        "none: ctx_len (sound: 480000)",
        low=1,
        high=1 << 24,
        one_or_many=True,
    )
    encoder_ctx_len: int | None = option(
        None,
        "slots of the cross cache of an encoder-decoder; null: what its encoder makes of its longest input",
        low=1,
        high=1 << 24,
    )
    img_size: tuple[int, ...] = option(
        (),
        "height and width of images, one number for both; none: as the model's configuration says, else 448",
        low=1,
        high=1 << 14,
        one_or_many=True,
    )
    max_num_images: int = option(1, "images of one prompt", low=1, high=1024)
    continuous_batching: bool | None = option(
        None, "rows join and leave while others decode; null: yes if full_batch_size is set"
    )
    full_batch_size: int | None = option(None, "slots of continuous batching", low=1, high=4096)
    kv_cache_batch_size: int | None = option(
        None, "cache slots when there are more than full_batch_size", low=1, high=4096
    )
    comp_ctx_lengths_prefill: tuple[int, ...] = option(
        (), "context lengths that prefill is compiled for", low=1, high=1 << 24
    )
    comp_ctx_lengths_decode: tuple[int, ...] = option(
        (), "context lengths that decode is compiled for", low=1, high=1 << 24
    )
    num_speculative_tokens: tuple[int, ...] = option(
        (),
        "draft tokens that one target run verifies; several values compile several",
        low=0,
        high=256,
        one_or_many=True,
    )
    logits_to_keep: int = option(
        1, "logits of how many of a run's last tokens come out of prefill; 0: of all of them", low=0, high=1 << 20
    )
    prefill_only: bool | None = option(None, "true: prefill graphs only; false: decode graphs only; null: both")

    @property
    def keeps_several(self) -> bool:
        """Whether some run gives more logits of a row than its last one: of drafts, or of a prompt."""
        return bool(self.num_speculative_tokens) or self.logits_to_keep != 1

    def kept(self, width: int) -> int:
        """How many logits of each row a prefill of `width` tokens gives."""
        return min(self.logits_to_keep or width, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceGroupSpec:
    """The devices of one package, and how the model is split over them."""

    devices: tuple[int, ...] = option((0,), "device ids; their number is the number of tensor slices", low=0, high=1023)
    num_devices: int | None = option(None, "their number, when the ids are not known yet", low=1, high=1024)
    mdp_num_partitions: int = option(1, "pipeline stages over the devices", low=1, high=1024)
    allow_uneven: bool = option(
        False, "allow devices that share neither KV heads nor stages evenly, and stages without a layer"
    )

    @property
    def size(self) -> int:
        return self.num_devices if self.num_devices is not None else len(self.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """`options` is the frozen `Options` of qeffbuild.backends.NAME.options."""

    name: str
    options: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformsSpec:
    """What is changed in the graph between export and the backend, beyond what other groups imply."""

    lora: Literal["stacked", "inputs"] = option(
        "stacked", "adapters all in the graph, one chosen per row; or the weights of one at a time as inputs"
    )
    mla_absorption: bool = option(False, "latent attention reads the latents of its cache, and makes no keys of them")
    blocking_mode: BlockingMode = option(
        "none", "attention in blocks of rows (b), heads (h), queries (q) and slots (kv), one at a time"
    )
    num_kv_blocks: int | None = option(None, "blocks of slots; null: as few as fit fast memory", low=1, high=1 << 16)
    num_q_blocks: int | None = option(None, "blocks of queries; null: as few as fit fast memory", low=1, high=1 << 16)
    head_block_size: int | None = option(None, "heads of one block; null: as many as fit fast memory", low=1, high=4096)
    num_batch_blocks: int | None = option(None, "blocks of rows; null: as few as fit fast memory", low=1, high=4096)
    skip_kv: bool = option(True, "blocks of slots that no token sees yet are left out")
    fuse_projections: bool = option(False, "queries, keys and values are one product, and so are gate and up")
    share_weights: bool = option(
        False, "tensors with equal bytes are stored once, and a head that equals the table of words reads that"
    )
    speculative_heads: str | None = option(None, "a safetensors file of projections whose logits guess further ahead")
    proxy: bool = option(
        False, "the model without its table of words and its head: inputs_embeds in, hidden_states out"
    )
    clip_float16: bool = option(False, "weights beyond the range of float16 become its largest number")
    include_sampler: bool = option(False, "the graph chooses the next token; settings go in per row")
    max_top_k_ids: int = option(512, "the likeliest tokens among which the sampler draws", low=1, high=1 << 20)
    return_pdfs: bool = option(False, "the sampler gives out the probabilities that it drew by")
    include_guided_decoding: bool = option(False, "the sampler takes a bitmask of allowed words per row")


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    """How graphs are held against PyTorch with the model's own weights before anything is made of them."""

    level: Literal["none", "fast", "full"] = option(
        "fast", "fast: the graph that a build ends with, on two short prompts; full: the graph of every step, on eight"
    )
    tolerance: float | None = option(
        None,
        "most difference of the logits, in their spreads: the largest in float32, else the usual; "
        "null: 1e-3 for float32, 5e-2 for float16, 2e-1 for bfloat16, 0.5 of 8-bit weights, 0.65 of fewer",
        low=0.0,
        high=10.0,
    )
    kl: float | None = option(
        None,
        "most KL of a quantized graph, in nats, beyond what quantizing has measured; null: 0.1 for 8 bits, else 0.5",
        low=0.0,
        high=100.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingSpec:
    """How tokens are chosen. Read at run time, never part of a build's key."""

    max_new_tokens: int | None = option(
        None, "tokens per prompt; null: until eos or the end of the context", low=1, high=1 << 24
    )
    temperature: float = option(0.0, "0 is greedy", low=0.0, high=100.0)
    top_k: int = option(0, "keep the k likeliest tokens; 0: all", low=0, high=1 << 20)
    top_p: float = option(1.0, "keep the likeliest tokens whose probabilities add up to p", low=0.0, high=1.0)
    min_p: float = option(0.0, "keep tokens at least this fraction as likely as the likeliest", low=0.0, high=1.0)
    repetition_penalty: float = option(
        1.0, "above 1 makes tokens of prompt and answer less likely", low=0.01, high=100.0
    )
    presence_penalty: float = option(
        0.0, "subtracted from the logits of tokens already generated", low=-100.0, high=100.0
    )
    seed: int = option(0, "seed of the sampler", low=0, high=(1 << 63) - 1)
    ignore_eos: bool = option(False, "go on after the end-of-text token")
    draft: str | None = option(
        None, "a package whose model drafts for a speculative target; null: drafts are looked up in the text"
    )
    max_ngram_size: int = option(3, "the longest end of the text that is looked up in it", low=1, high=64)
    adapter: str | None = option(None, "which adapter answers; null: the first, base: the model alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSpec:
    """Where steps run, how many at a time, and what one may take."""

    name: Literal["local", "ray", "slurm"] = option("local", "where steps run")
    jobs: int = option(1, "steps at a time", low=1, high=1024)
    timeout_s: int = option(86400, "seconds that one step may take", low=1, high=10_000_000)
    memory_mb: int | None = option(None, "memory that one step may take, in MB", low=64)
    keep_going: bool = option(False, "after a failure, still build what does not depend on it")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """The store of finished steps."""

    root: str | None = option(None, "the store's folder; null: QEFFBUILD_CACHE, QEFF_HOME, XDG_CACHE_HOME")
    verify: Literal["auto", "always"] = option("auto", "always: hash every file of every hit, whatever its size")
    remote: str | None = option(None, "a shared store")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSpec:
    """All that one build was asked for."""

    model: ModelSpec
    quantization: QuantizationSpec
    specialization: SpecializationSpec
    device_group: DeviceGroupSpec
    backend: BackendSpec
    decoding: DecodingSpec
    adapters: Mapping[str, str]
    transforms: TransformsSpec = field(default_factory=TransformsSpec)
    gate: GateSpec = field(default_factory=GateSpec)
    is_ctx_len_asked: bool = field(default=True, compare=False)  # false where it is what everyone gets
    launch: LaunchSpec
    cache: CacheSpec
    prompts: tuple[str, ...] = option((), "what `run` answers; none: the model's example prompts")
    prompts_file: str | None = option(None, "a text file with one prompt per line")
    images: tuple[str, ...] = option((), "image files that `run` shows to the model", one_or_many=True)
    audio: tuple[str, ...] = option((), "WAV files that `run` transcribes", one_or_many=True)
    out: str | None = option(None, "the folder that `emit` and reports write to")
    eval_file: str | None = option(None, "the text that `eval` measures perplexity on")
    eval_protocol: Literal["strided", "windows"] = option(
        "strided", "strided: each token once, with the most context; windows: whole ones, as QEfficient's script"
    )
    eval_stride: int | None = option(None, "tokens from one window of `eval` to the next; null: half of ctx_len", low=1)
    eval_tokens: int | None = option(None, "tokens of the text that are looked at; null: all", low=2)
    runs: int = option(5, "timed runs of `bench`", low=1, high=10_000)
