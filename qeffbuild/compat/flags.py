"""QEfficient's words, one row each: how they are typed, what they take, and the key of ours that says the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MODULES = ("infer", "execute", "compile", "export")  # its command lines, each a module of QEfficient.cloud and of ours

# What a word takes on the command line. A switch takes nothing; an optional file may stand alone.
SWITCH, INT, TEXT, FILE, OPTIONAL_FILE = "a switch", "a number", "text", "a file or folder", "a file, or nothing"
DEVICES, LENGTHS, PROMPTS = "[0,1]", "512,1024", "one|another"


class Flag(NamedTuple):
    """One word. `name` is the keyword of its Python calls; `typed` how the command line says it, if otherwise.

    `key` None: nothing of a build says this; `does` says what becomes of it.
    """

    name: str
    takes: str
    key: str | None
    does: str
    modules: tuple[str, ...] = ("infer",)
    typed: tuple[str, ...] = ()
    default: int | None = None  # that of the infer command line, where the key's own is another
    required: tuple[str, ...] = ()

    @property
    def spellings(self) -> tuple[str, ...]:
        return self.typed or (self.name,)


_ALL = MODULES
_READS_MODEL = ("infer", "execute", "export")
_SHAPES = ("infer", "compile")

FLAGS: tuple[Flag, ...] = (
    Flag(
        "model_name", TEXT, "model.id", "the model: a folder, or a name on the hub", _READS_MODEL, required=_READS_MODEL
    ),
    Flag("local_model_dir", FILE, "model.path", "the folder of the model; nothing is asked of the hub", _READS_MODEL),
    Flag("cache_dir", FILE, None, "where hub models are kept: HF_HUB_CACHE of this run", _READS_MODEL),
    Flag("hf_token", TEXT, None, "HF_TOKEN of this run; written nowhere", _READS_MODEL),
    Flag("onnx_path", FILE, None, "the exported graph", ("compile",), required=("compile",)),
    Flag(
        "qpc_path",
        FILE,
        None,
        "the folder of the compiled program",
        ("execute", "compile"),
        required=("execute", "compile"),
    ),
    Flag("batch_size", INT, "specialization.batch_size", "rows of one run", _SHAPES),
    Flag(
        "prefill_seq_len",
        INT,
        "specialization.prefill_seq_len",
        "tokens of one prefill chunk",
        _SHAPES,
        ("prompt_len",),
    ),
    Flag("ctx_len", INT, "specialization.ctx_len", "slots of the KV cache", _SHAPES),
    Flag("full_batch_size", INT, "specialization.full_batch_size", "rows of continuous batching", _ALL),
    Flag("comp_ctx_lengths_prefill", LENGTHS, "specialization.comp_ctx_lengths_prefill", "context lengths of prefill"),
    Flag("comp_ctx_lengths_decode", LENGTHS, "specialization.comp_ctx_lengths_decode", "context lengths of decode"),
    Flag("ccl_enabled", SWITCH, None, "lengths are worked out where none are given: written out in the recipe"),
    Flag("mxfp6_matmul", SWITCH, "quantization.mxfp6_matmul", "weights in MXFP6", _SHAPES, ("mxfp6", "mxfp6_matmul")),
    Flag(
        "mxint8_kv_cache",
        SWITCH,
        "quantization.mxint8_kv_cache",
        "the KV cache in MXINT8",
        ("infer", "compile", "export"),
        ("mxint8", "mxint8_kv_cache"),
    ),
    Flag("num_cores", INT, "backend.num_cores", "AI cores of each device", _SHAPES, required=_SHAPES),
    Flag(
        "device_group",
        DEVICES,
        "device_group.devices",
        "the devices",
        ("infer", "execute", "compile"),
        required=("compile",),
    ),
    Flag("prompt", PROMPTS, "prompts", "prompts, split at |", ("infer", "execute")),
    Flag("prompts_txt_file_path", FILE, "prompts_file", "a text file with one prompt per line", ("infer", "execute")),
    Flag("generation_len", INT, "decoding.max_new_tokens", "tokens per prompt", ("infer", "execute")),
    Flag("aic_enable_depth_first", SWITCH, "backend.aic_enable_depth_first", "schedule depth first", _SHAPES),
    Flag("mos", INT, "backend.mos", "output channels per core; 0 or less: the compiler's choice", _SHAPES, default=1),
    Flag("allow_mxint8_mdp_io", SWITCH, "backend.allow_mxint8_mdp_io", "MXINT8 between devices", _SHAPES),
    Flag("use_onnx_subfunctions", SWITCH, "backend.sub_functions", "a function per decoder layer"),
    Flag(
        "trust_remote_code",
        SWITCH,
        "model.trust_remote_code",
        "run the model's own code; the hub wants a revision then",
    ),
    Flag("enable_qnn", OPTIONAL_FILE, None, "the QNN tools in place of the compiler; a file: its overrides", _SHAPES),
    Flag("custom_io_file_path", FILE, None, "the precisions of keys and values", ("compile",)),
    Flag("dynamo", SWITCH, None, "which exporter runs; we have one"),
    Flag("verbose", SWITCH, None, "more talk; the log of every step is kept anyway", typed=("verbose", "v")),
)

# Keywords of its Python calls that no command line of its has.
KEYWORDS: tuple[Flag, ...] = (
    Flag("kv_cache_batch_size", INT, "specialization.kv_cache_batch_size", "cache slots", ()),
    Flag("num_speculative_tokens", INT, "specialization.num_speculative_tokens", "draft tokens per run", ()),
    Flag("prefill_only", SWITCH, "specialization.prefill_only", "one of the two phases only", ()),
    Flag("continuous_batching", SWITCH, "specialization.continuous_batching", "rows join and leave", ()),
    Flag("seq_len", INT, "specialization.seq_len", "lengths that an encoder is compiled for", ()),
    Flag("encoder_ctx_len", INT, "specialization.encoder_ctx_len", "slots of the cross cache", ()),
    Flag("kv_offload", SWITCH, "model.kv_offload", "vision and language in two programs", ()),
    Flag("img_size", INT, "specialization.img_size", "the size of images", ()),
    Flag("max_num_images", INT, "specialization.max_num_images", "images of one prompt", ()),
    Flag("num_devices", INT, "device_group.num_devices", "their number", ()),
    Flag("mdp_num_partitions", INT, "device_group.mdp_num_partitions", "pipeline stages", ()),
    Flag("mdp_strategy", TEXT, "backend.mdp_strategy", "which nodes a stage lists", ()),
    Flag("mdp_compiler_dump_path", FILE, "backend.mdp_compiler_dump_path", "a dump of the compiler", ()),
    Flag("kv_cache_prefix", TEXT, "backend.kv_cache_prefix", "a suffix for the names of keys and values", ()),
    Flag("include_sampler", SWITCH, "transforms.include_sampler", "the graph chooses the next token", ()),
    Flag("max_top_k_ids", INT, "transforms.max_top_k_ids", "how many tokens it chooses among", ()),
    Flag("return_pdfs", SWITCH, "transforms.return_pdfs", "it gives out probabilities", ()),
    Flag("include_guided_decoding", SWITCH, "transforms.include_guided_decoding", "it takes a bitmask", ()),
    Flag("blocking_mode", TEXT, "transforms.blocking_mode", "attention in blocks", ()),
    Flag("num_kv_blocks", INT, "transforms.num_kv_blocks", "blocks of slots", ()),
    Flag("num_q_blocks", INT, "transforms.num_q_blocks", "blocks of queries", ()),
    Flag("head_block_size", INT, "transforms.head_block_size", "heads of a block", ()),
    Flag("num_batch_blocks", INT, "transforms.num_batch_blocks", "blocks of rows", ()),
    Flag("skip_kv", SWITCH, "transforms.skip_kv", "slots that nobody sees yet are left out", ()),
    Flag("aic_hw_version", TEXT, "backend.aic_hw_version", "ai100 or ai200", ()),
)


def spelled(word: str) -> str:
    """Dashes and underscores are one sign, as on QEfficient's command lines."""
    return word.lstrip("-").replace("-", "_")


def flags_of(module: str) -> dict[str, Flag]:
    """Every spelling that a module of QEfficient.cloud takes."""
    return {spelling: flag for flag in FLAGS if module in flag.modules for spelling in flag.spellings}


def keywords() -> dict[str, Flag]:
    """Every keyword of a Python call that a key of ours says."""
    return {flag.name: flag for flag in (*FLAGS, *KEYWORDS)}


def rows() -> Iterator[tuple[str, str, str, str]]:
    """How it is typed, what it takes, our key, what it does: the table of docs/qefficient.md."""
    for flag in FLAGS:
        yield ", ".join(map(dashed, flag.spellings)), flag.takes, flag.key or "", flag.does


def dashed(spelling: str) -> str:
    return f"--{spelling.replace('_', '-')}" if len(spelling) > 1 else f"-{spelling}"
