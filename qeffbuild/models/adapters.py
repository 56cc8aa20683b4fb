"""A LoRA adapter's folder, as PEFT saves it -> its matrices by module, read without torch or peft.

`adapter_config.json` says ranks and scales; `adapter_model.safetensors` holds lora_A [rank, in] and lora_B [out, rank].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qeffbuild.errors import ModelError
from qeffbuild.models.files import read_json
from qeffbuild.models.weights import Tensor, read_header

if TYPE_CHECKING:
    import numpy as np

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before the path of every module, in PEFT's names

_TENSOR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")
# What would change more than the sum of products that a LoRA is.
_NOT_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": (None, "none"),
    "use_dora": (None, False),
    "modules_to_save": (None, []),
    "lora_bias": (None, False),
    "trainable_token_indices": (None, [], {}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What one module gets, as it lies in the file: x A^T B^T times `scale`; a [rank, in], b [out, rank]."""

    folder: Path
    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs of the layer that is changed."""
        return self.b.shape[0], self.a.shape[1]

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """a and b in float32."""
        return _values(self.folder, self.a), _values(self.folder, self.b)


def read_adapter(folder: Path) -> dict[str, Pair]:
    """Each module's matrices, by the module's path in the model; no number is read yet."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        missing = CONFIG if not (folder / CONFIG).is_file() else WEIGHTS
        raise _refused(folder, f"no {missing}", "an adapter is a folder that PEFT's save_pretrained wrote")
    said = read_json(folder / CONFIG, "model.adapter")
    for key, allowed in _NOT_PLAIN.items():
        if said.get(key) not in allowed:
            raise _refused(
                folder, f"{key} is {said.get(key)!r:.40}: only plain LoRA is taken", "merge it into the model"
            )
    named: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_header(folder, WEIGHTS).items():
        found = _TENSOR.fullmatch(name)
        if found is None or len(tensor.shape) != 2:
            raise _refused(folder, f"{name} is no matrix of a linear layer", "merge it into the model")
        named.setdefault(found[1], {})[found[2]] = tensor
    if not named:
        raise _refused(folder, f"{WEIGHTS} holds no matrices", "train it first")
    return {module: _pair(folder, said, module, named[module]) for module in sorted(named, key=_natural)}


def fit_adapter(name: str, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse an adapter whose modules or sizes are not those of the checkpoint."""
    for module, pair in read_adapter(folder).items():
        weight = find(tensors, f"{module}.weight")
        if weight is None:
            raise misfit(name, f"the model has no linear layer {module}")
        if tensors[weight].shape not in (pair.sizes, pair.sizes[::-1]):
            raise misfit(name, f"{module} is {list(pair.sizes)} there, here {list(tensors[weight].shape)}")


def find(names: Iterable[str], wanted: str) -> str | None:
    """A name among those of a checkpoint, which may leave out, or add, the decoder that wraps the layers."""
    names = set(names)
    if wanted in names:
        return wanted
    close = [name for name in names if wanted.endswith(f".{name}") or name.endswith(f".{wanted}")]
    return close[0] if len(close) == 1 else None


def misfit(name: str, what: str) -> ModelError:
    hint = f"it was trained on another model; name another folder: adapters.{name}=DIR"
    return ModelError("model.adapter", f"adapter {name}: {what}", hint=hint)


def _pair(folder: Path, said: Mapping[str, Any], module: str, pair: Mapping[str, Tensor]) -> Pair:
    if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
        raise _refused(folder, f"{module}: lora_A and lora_B do not go together", "save the adapter again")
    rank = pair["A"].shape[0]
    wanted = _of_module(said.get("rank_pattern"), module, said.get("r"))
    alpha = _of_module(said.get("alpha_pattern"), module, said.get("lora_alpha"))
    if wanted != rank or not isinstance(alpha, int | float):
        found = f"{module}: its rank is {rank}, but {CONFIG} says {wanted!r:.20}"
        raise _refused(folder, found, "save the adapter again")
    scale = alpha / (math.sqrt(rank) if said.get("use_rslora") else rank)
    return Pair(folder=folder, a=pair["A"], b=pair["B"], scale=scale)


def _of_module(pattern: Any, module: str, otherwise: Any) -> Any:
    """PEFT's rule: the first key that a module's path ends with."""
    for key, value in (pattern or {}).items():
        if module == key or module.endswith(f".{key}"):
            return value
    return otherwise


def _values(folder: Path, tensor: Tensor) -> np.ndarray:
    import ml_dtypes  # noqa: F401 - teaches numpy bfloat16
    import numpy as np

    raw = np.fromfile(folder / tensor.file, np.uint8, count=tensor.nbytes, offset=tensor.offset)
    array = raw.view(np.dtype(tensor.dtype)).reshape(tensor.shape).astype(np.float32)
    if not np.isfinite(array).all():
        raise _refused(folder, "its weights hold NaN or infinity", "train it again")
    return array


def _natural(name: str) -> list[tuple[int, str]]:
    """Layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _refused(folder: Path, what: str, hint: str) -> ModelError:
    return ModelError("model.adapter", f"adapter {folder.name}: {what}", where=str(folder), hint=hint)
