"""A number -> a draw: a family, a backend, and two or three wishes that a spec may have for its graph."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

FAMILIES = (
    "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mixtral", "deepseek_v3", "gpt2", "phi3", "falcon", "gpt_oss",
    "llama_swiftkv", "mpt", "gpt_bigcode",
)  # fmt: skip
# A wish is words; ADAPTERS and HEADS_FILE stand for files of the family.
BLOCKED = "transforms.blocking_mode="
SHARED: Mapping[str, tuple[str, ...]] = {
    "replicate_kv": ("model.kv_head_replication=2",),
    "absorb_mla": ("transforms.mla_absorption=true",),
    "block_attention": (
        f"{BLOCKED}kv transforms.num_kv_blocks=3", f"{BLOCKED}h transforms.head_block_size=2", f"{BLOCKED}b",
        f"{BLOCKED}hqkv transforms.num_q_blocks=3 transforms.num_kv_blocks=5 transforms.skip_kv=false",
        f"{BLOCKED}bhqkv transforms.num_batch_blocks=2 transforms.num_kv_blocks=2", f"{BLOCKED}q transforms.num_q_blocks=2",
    ),
    "lora": ("ADAPTERS", "ADAPTERS transforms.lora=inputs"),
    "fuse_projections": ("transforms.fuse_projections=true",),
    "clip_float16": ("transforms.clip_float16=true",),
    "share_weights": ("transforms.share_weights=true",),
    "logits_to_keep": ("specialization.logits_to_keep=3", "specialization.logits_to_keep=0"),
    "dtype": ("model.dtype=float16", "model.dtype=bfloat16"),
}  # fmt: skip
ONLY: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": {
        "quantization": ("quantization=int8", "quantization=int8 backend.profile=fast", "quantization=dynamic"),
        "attention": ("backend.attention=portable",),
        "embedding_bits": ("backend.embedding_bits=8",),
    },
    "qaic": {
        "proxy": ("transforms.proxy=true",),
        "sampler": ("transforms.include_sampler=true transforms.return_pdfs=true",),
        "speculative_heads": ("transforms.speculative_heads=HEADS_FILE",),
        "speculation": ("specialization.num_speculative_tokens=2",),
        "continuous": ("specialization.batch_size=1 specialization.full_batch_size=3",),
        "lengths": ("LENGTHS",),
        "functions": ("backend.sub_functions=true",),
        "prefix": ("backend.kv_cache_prefix=left",),
        "full": ("backend.retain_full_kv=true",),
        "bfloat16": ("model.dtype=bfloat16 backend.aic_hw_version=ai200",),
    },
}
# Elsewhere these are refused, which a few draws are enough to see.
OWN_ATTENTION = ("falcon", "gpt_oss", "mpt")
ONLY_OF: Mapping[str, tuple[str, ...]] = {
    "absorb_mla": ("deepseek_v3",),
    "block_attention": tuple(family for family in FAMILIES if family not in OWN_ATTENTION),
    "fuse_projections": tuple(family for family in FAMILIES if family not in ("gpt2", "gpt_bigcode")),
}
MOSTLY = 0.9


@dataclass(frozen=True)
class Draw:
    """What is built: the family, the backend, and the words of each wish."""

    family: str
    backend: str
    wishes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.family} {self.backend} " + " + ".join(words for _, words in self.wishes)

    def has(self, name: str) -> bool:
        return name in dict(self.wishes)


def draw(number: int) -> Draw:
    chance = random.Random(number)
    backend = chance.choice(["onnxruntime", "qaic", "qaic"])
    wishes = {**SHARED, **ONLY[backend]}
    family = chance.choice(FAMILIES)
    unfit = {name for name, families in ONLY_OF.items() if family not in families and chance.random() < MOSTLY}
    names = chance.sample(sorted(wishes.keys() - unfit), chance.choice([2, 3, 3]))
    return Draw(family, backend, tuple((name, chance.choice(wishes[name])) for name in names))


def named(family: str, backend: str, words: Sequence[str]) -> Draw:
    """The draw of these wishes, each in its words."""
    wishes = {said: name for table in (SHARED, ONLY[backend]) for name, each in table.items() for said in each}
    return Draw(family, backend, tuple((wishes[said], said) for said in words))
