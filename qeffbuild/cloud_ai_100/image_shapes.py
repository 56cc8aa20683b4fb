"""What is known of a model's images -> the symbols that its specializations have beside those of text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qeffbuild.cloud_ai_100.names import IMAGE
from qeffbuild.cloud_ai_100.specializations import Specialization
from qeffbuild.signature import IoSignature


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The size of pixels, how many images a prompt has at most, and how many embeddings one becomes."""

    height: int
    width: int
    most: int
    embeddings: int

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Images:
        pixels = said["processed"]["pixel_values"]  # in channels, or patches: those do not say how they lay
        height, width = pixels[-2:] if len(pixels) > 3 else said["img_size"]
        return cls(height=height, width=width, most=said["max_num_images"], embeddings=said["vision_size"])

    @property
    def symbols(self) -> dict[str, int]:
        """One number says the size of a square image only."""
        square = {"img_size": self.height} if self.height == self.width else {}
        return {**square, "max_num_images": self.most}


def vision_specializations(images: Images) -> tuple[Specialization, ...]:
    """Images are embedded one by one."""
    return (Specialization(name="Vision", symbols={"batch_size": 1, **images.symbols}),)


def with_images(
    entries: Iterable[Specialization], images: Images, signature: IoSignature, rows: int
) -> tuple[Specialization, ...]:
    """`rows` are those of the prompts whose images are held."""
    more = {**images.symbols, "vision_batch_size": rows}
    if any("vision_size" in state.axes for state in signature.states if state.kind == IMAGE):
        more["vision_size"] = images.most * images.embeddings
    return tuple(Specialization(name=entry.name, symbols={**entry.symbols, **more}) for entry in entries)
