"""The story of an export of a model of images and text: a vision graph and a decoder, or one graph of both.

As for every model: a small one of the kind is held against PyTorch first, then the real one is traced without weights,
one layer of each kind, and its weights stay where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qeffbuild.errors import QeffBuildError
from qeffbuild.export import skeleton
from qeffbuild.export.image_choice import Chosen, chosen, small_one
from qeffbuild.export.image_graphs import Traced, graphs
from qeffbuild.export.reasons import explain, unsupported
from qeffbuild.export.recipes import RECIPES
from qeffbuild.export.running import Progress, settled, silent
from qeffbuild.export.weights import stored_tensors
from qeffbuild.export.write import write_all
from qeffbuild.models.image_positions import RULE
from qeffbuild.models.images import blank, described, processed, size_of
from qeffbuild.models.processor import reads_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What whoever feeds the graphs has to know: images of which size, and what becomes of one.

    `processed` describes what the processor gives for one image; `whole_images` and `whole_prompts` say that an image
    or all of a prompt may not be split over chunks, because its pieces see one another.
    """

    img_size: tuple[int, int]
    max_num_images: int
    image_token_id: int
    vision_size: int
    whole_images: bool
    whole_prompts: bool
    has_grid: bool
    processed: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How the graphs were made; export.json. `all_layers_because` is null where layers were copied."""

    model_type: str
    model_class: str
    task: str
    recipe: str
    vision_attention: str
    self_check_error: float
    fused_attention: tuple[str, ...]
    layers: int
    layers_traced: int
    all_layers_because: str | None
    vision_layers: int | None  # null where both parts are one graph
    vision_layers_traced: int | None
    vision_all_layers_because: str | None
    rejected_recipes: tuple[tuple[str, str], ...]
    graphs: tuple[str, ...]
    image: ImageFacts

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, **asdict(self)}


@settled()
def export(
    facts: Mapping[str, Any],
    processor: Any,
    out: Path,
    *,
    dtype: str = "float32",
    img_size: Sequence[int] = (),
    max_num_images: int = 1,
    kv_offload: bool = True,
    progress: Progress = silent,
) -> Report:
    """Write the graphs, their signatures and export.json into `out`. `facts` is facts.json; no weight is read.

    They compute in `dtype`, but take and give float32. With `kv_offload` the vision graph is one and the decoder
    another; without, one graph takes pixels and tokens.
    """
    said = facts["config"]
    config = skeleton.configuration(said)
    size = size_of(config, img_size)
    one = processed(processor, blank(size))
    seen = one if kv_offload else processed(processor, blank(size, max_num_images))
    progress(0.05, "building a small model of the same kind")
    whole_prompts = reads_whole(processor)
    small = small_one(config, one, whole_prompts=whole_prompts)
    rejected: list[tuple[str, str]] = []
    for recipe in (recipe for recipe in RECIPES if not recipe.recompute):
        try:
            way = chosen(small, recipe)
            progress(0.3, f"tracing: {recipe.name}")
            traced = graphs(config, stored_tensors(facts), seen, way, dtype=dtype, kv_offload=kv_offload)
        except QeffBuildError:
            raise
        except Exception as reason:
            log.debug("recipe %s failed", recipe.name, exc_info=True)
            rejected.append((recipe.name, explain(reason)))
            continue
        progress(0.9, "writing")
        image = ImageFacts(
            img_size=size,
            max_num_images=max_num_images,
            image_token_id=config.image_token_id,
            vision_size=small.expected.vision_size,
            whole_images=way.whole_images,
            whole_prompts=whole_prompts,
            has_grid=hasattr(small.model.base_model, RULE),
            processed=described(one),
        )
        report = _report(said["model_type"], way, traced, rejected, image)
        write_all([(graph.model, graph.signature) for graph in traced], report.as_json(), out)
        return report
    raise unsupported(said["model_type"], rejected[0][1])


def _report(
    model_type: str,
    way: Chosen,
    traced: Sequence[Traced],
    rejected: Sequence[tuple[str, str]],
    image: ImageFacts,
) -> Report:
    fused = way.recipe.attention != "eager"
    names = [cls.__name__ for cls, same in way.choice.fused.items() if same and fused]
    eye = traced[1] if len(traced) > 1 else None
    return Report(
        model_type=model_type,
        model_class=traced[0].model_class,
        task="image-text",
        recipe=way.recipe.name,
        vision_attention=way.vision_attention,
        # One digit says all; the rest differs from machine to machine.
        self_check_error=float(f"{way.error:.0e}"),
        fused_attention=tuple(sorted(names)),
        layers=traced[0].layers,
        layers_traced=traced[0].layers_traced,
        all_layers_because=traced[0].all_layers_because,
        vision_layers=eye.layers if eye else None,
        vision_layers_traced=eye.layers_traced if eye else None,
        vision_all_layers_because=eye.all_layers_because if eye else None,
        rejected_recipes=tuple(rejected),
        graphs=tuple(graph.signature.graph for graph in traced),
        image=image,
    )
