"""BuildSpec -> the passes over its neutral graph, by name and in order, each with what the spec says of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qeffbuild.plan.types import Leaf, Step

if TYPE_CHECKING:
    from qeffbuild.spec.types import BuildSpec

STEP = "transform"


def transform(spec: BuildSpec, graph: str, model: tuple[Leaf, ...]) -> Step | None:
    """The step that runs them on the graph that the step `graph` gives; None where there is nothing to do.

    `model` is where weights are, for passes that look at them.
    """
    passes = list(_passes(spec))
    if not passes:
        return None
    looks = spec.transforms.share_weights
    return Step(
        name=STEP,
        action="qeffbuild.actions.transform",
        params={"passes": passes},
        reads={"passes": "graph passes"},
        inputs={"graph": graph, **({"model": "fetch"} if looks else {})},
        leaves=(*_leaves(spec), *(model if looks else ())),
        code=(
            "qeffbuild.graph",
            "qeffbuild.signature",
            "qeffbuild.models",
            "qeffbuild.transforms.subject",
            *(f"qeffbuild.transforms.{said['name']}" for said in passes),
        ),
        tools=("ml-dtypes", "numpy", "onnx", "onnx-ir", "safetensors"),
    )


def _leaves(spec: BuildSpec) -> Iterator[Leaf]:
    """Files that passes read."""
    yield from (Leaf(name=f"adapter.{name}", path=path) for name, path in spec.adapters.items())
    if spec.transforms.speculative_heads is not None:
        yield Leaf(name="speculative_heads", path=spec.transforms.speculative_heads)


def _passes(spec: BuildSpec) -> Iterator[dict[str, Any]]:
    if spec.model.kv_head_replication > 1:
        yield {"name": "replicate_kv", "times": spec.model.kv_head_replication}
    if spec.adapters:
        yield {"name": "lora", "form": spec.transforms.lora, "adapters": list(spec.adapters)}
    asked = spec.transforms
    if asked.mla_absorption:
        yield {"name": "absorb_mla"}
    if asked.blocking_mode != "none":
        yield _block_attention(spec)
    if asked.fuse_projections:
        yield {"name": "fuse_projections"}
    if asked.speculative_heads is not None:
        yield {"name": "speculative_heads"}
    if asked.proxy:
        yield {"name": "proxy"}
    if asked.clip_float16:
        yield {"name": "clip_float16"}
    if asked.share_weights:  # behind those that know weights by their names
        yield {"name": "share_weights"}
    if asked.include_sampler:
        yield {
            "name": "sampler",
            "max_top_k_ids": asked.max_top_k_ids,
            "return_pdfs": asked.return_pdfs,
            "include_guided_decoding": asked.include_guided_decoding,
        }


def _block_attention(spec: BuildSpec) -> dict[str, Any]:
    asked, shapes = spec.transforms, spec.specialization
    rows = max(shapes.batch_size, shapes.full_batch_size or 1)
    sizes = ("num_kv_blocks", "num_q_blocks", "head_block_size", "num_batch_blocks", "skip_kv")
    return {
        "name": "block_attention",
        "axes": asked.blocking_mode,
        **{name: getattr(asked, name) for name in sizes},
        "shapes": {"batch_size": rows, "prefill_seq_len": shapes.prefill_seq_len, "ctx_len": shapes.ctx_len},
    }
