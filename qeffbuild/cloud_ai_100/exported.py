"""What an export says of its model, as far as the documents for a compiler say it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from qeffbuild.cloud_ai_100.image_shapes import Images
from qeffbuild.graphs import members
from qeffbuild.spec.types import SpecializationSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """`positions` are those of an encoder that hears, `images` those of a model that sees."""

    task: str = "causal-lm"
    positions: int | None = None
    images: Images | None = None

    @classmethod
    def read(cls, folder: Path) -> Exported:
        """The folder is that of the step `export`."""
        made = json.loads((folder / "export.json").read_text())
        images = Images.read(made["image"]) if "image" in made else None
        return cls(task=made.get("task", "causal-lm"), positions=_positions(folder), images=images)

    def sees_one_row(self, shapes: SpecializationSpec) -> bool:
        """Whether what is seen is one prompt's."""
        return self.images is not None and shapes.batch_size == 1


def _positions(folder: Path) -> int | None:
    """How many positions the encoder has that hears: two frames of sound become one."""
    _, *others = members(folder)
    frames = [tensor.axes[2] for member in others for tensor in member.signature.inputs if len(tensor.axes) == 3]
    return next((most // 2 for most in frames if isinstance(most, int)), None)
