"""What a quantized checkpoint is asked about its weights, and how it is refused when it answers wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from qeffbuild.errors import ModelError
from qeffbuild.models.files import CONFIG, line_of
from qeffbuild.models.weights import Tensor

KEY = "quantization_config"
REAL = ("float16", "bfloat16", "float32", "float64")
WORDS = ("int32", "uint32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One weight: `parts` are the names of the tensors that hold it, by role; decoded it is float32 of `shape`."""

    format: str
    shape: tuple[int, ...]
    parts: Mapping[str, str]
    options: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Encoded:
        return cls(**{**said, "shape": tuple(said["shape"])})


@dataclass(frozen=True, slots=True)
class Door:
    """`said` is the checkpoint's quantization_config, `tensors` its own table."""

    folder: Path
    said: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def ending(self, suffix: str) -> Iterator[tuple[str, Tensor]]:
        """Tensors with this ending, under the name without it."""
        for name, tensor in self.tensors.items():
            if name.endswith(suffix):
                yield name.removesuffix(suffix), tensor

    def number(self, key: str, allowed: tuple[int, ...] | None = None) -> int:
        value = self.said.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self.unsupported(f"{self.method}: {key} is {value!r:.40}", "a whole number")
        if allowed is not None and value not in allowed:
            self.unsupported(f"{self.method}: {key} is {value}", f"read are {', '.join(map(str, allowed))}")
        return value

    def group_size(self) -> int | None:
        """Columns that share a scale; None for all of a row."""
        size = self.number("group_size") if self.said.get("group_size") is not None else -1
        if size != -1 and size < 1:
            self.unsupported(f"{self.method}: group_size is {size}", "a number of columns, or -1 for whole rows")
        return None if size == -1 else size

    @property
    def method(self) -> str:
        return f"quant_method {self.said.get('quant_method')}"

    def parts(self, base: str, roles: Mapping[str, str], optional: Mapping[str, str] = {}) -> dict[str, str]:
        """Role -> tensor name; a missing one is refused by name."""
        for suffix in roles.values():
            if f"{base}.{suffix}" not in self.tensors:
                raise ModelError(
                    "model.weights", f"missing tensors: {base}.{suffix}", where=str(self.folder), hint="fetch it again"
                )
        more = {role: suffix for role, suffix in optional.items() if f"{base}.{suffix}" in self.tensors}
        return {role: f"{base}.{suffix}" for role, suffix in {**roles, **more}.items()}

    def read(self, name: str) -> bytes:
        tensor = self.tensors[name]
        with (self.folder / tensor.file).open("rb") as file:
            file.seek(tensor.offset)
            return file.read(tensor.nbytes)

    def numbers(self, name: str) -> tuple[int, ...]:
        """All of a small tensor of int32 or int64."""
        return tuple(memoryview(self.read(name)).cast("q" if self.tensors[name].dtype == "int64" else "i"))

    def expect(self, name: str, shape: tuple[int, ...], why: str, dtypes: Collection[str] = ()) -> None:
        found = self.tensors[name]
        if found.shape != shape:
            self.contradicts(f"{why}: {name} should be {list(shape)}, but is {list(found.shape)}")
        self.expect_dtype(name, dtypes)

    def expect_dtype(self, name: str, dtypes: Collection[str]) -> None:
        found = self.tensors[name].dtype
        if dtypes and found not in dtypes:
            self.contradicts(f"does not fit: {name} is stored as {found}, not as {' or '.join(dtypes)}")

    def expect_matrix(self, name: str, dtypes: Collection[str]) -> tuple[int, int]:
        """The rows and columns of a tensor that must have just these."""
        self.expect_dtype(name, dtypes)
        shape = self.tensors[name].shape
        if len(shape) != 2 or 0 in shape:
            self.contradicts(f"does not fit: {name} is {list(shape)}, which is no matrix")
        return shape[0], shape[1]

    def without_plain_groups(self, parts: dict[str, str], columns: int, size: int) -> dict[str, str]:
        """The parts, with `group` only if it puts columns into other groups than their places do; each must be full."""
        name = parts.get("group")
        if name is None:
            return parts
        self.expect(name, (columns,), "has a group for each input", ("int32", "int64"))
        found, plain = list(self.numbers(name)), [at // size for at in range(columns)]
        if found == plain or set(found) == {-1}:  # compressed-tensors: never filled in
            return {role: part for role, part in parts.items() if role != "group"}
        if sorted(found) != plain:
            self.contradicts(f"does not fit: {name} is no order of {columns} inputs in groups of {size}")
        return parts

    def unsupported(self, what: str, hint: str) -> NoReturn:
        where = line_of(self.folder / CONFIG, KEY)
        raise ModelError("model.unsupported", f"{CONFIG}: {KEY}: {what} is not read", where=where, hint=hint)

    def contradicts(self, what: str) -> NoReturn:
        where = line_of(self.folder / CONFIG, KEY)
        hint = "config.json and the weights are of different models, or a file is missing"
        raise ModelError("model.config", f"{CONFIG}: {KEY} {what}", where=where, hint=hint)
