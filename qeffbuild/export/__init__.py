"""A model's facts -> its neutral graph: one ONNX decoder with retained state, its weights by reference.

Reading order: `neutral` (the story), `recipes` and `selfcheck` (which way to trace is right for this model), `states`,
`cache`, `loops`, `interfaces`, `adapted`, `positions` and `decoder` (how it is traced), `weightless` (the real model,
which every exporter traces), then `trace`, `tidy`, `layers`, `weights` and `finish` (what becomes of the trace).
`tasks` is the story of encoders and encoder-decoders, `image_text` that of models that see.
"""

from __future__ import annotations

from qeffbuild.export.neutral import Report, export

__all__ = ["Report", "export"]
