from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qeffbuild.models.numbers import nonfinite
from qeffbuild.models.weights import Tensor

DTYPES = {
    "float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float8_e5m2": ml_dtypes.float8_e5m2, "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
}  # fmt: skip


def found(folder: Path, dtype: str, values: list[float] | float) -> tuple[str, ...]:
    """What is found in a file with one odd byte before the tensor, as offsets may be anything."""
    array = np.array(values, DTYPES[dtype])
    (folder / "x").write_bytes(b"\x7f" + array.tobytes())
    tensor = Tensor(file="x", offset=1, nbytes=array.nbytes, dtype=dtype, shape=array.shape)
    said: list[Any] = []
    return nonfinite(folder, {"weights": tensor}, lambda *what: said.append(what))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_found_in_every_dtype_and_large_numbers_are_none(dtype: str, tmp_path: Path) -> None:
    largest = float(ml_dtypes.finfo(DTYPES[dtype]).max)

    assert found(tmp_path, dtype, [0.0, -largest, largest, -0.0]) == ()
    assert found(tmp_path, dtype, [0.0, math.nan, 1.0]) == ("weights",)
    assert found(tmp_path, dtype, []) == ()


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "float8_e4m3fn"])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_found_where_a_dtype_has_one(dtype: str, value: float, tmp_path: Path) -> None:
    assert found(tmp_path, dtype, [1.0, value]) == ("weights",)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_number_may_be_infinite_as_a_bound_that_is_not_set_but_never_nan(dtype: str, tmp_path: Path) -> None:
    assert found(tmp_path, dtype, math.nan) == ("weights",)
    if dtype != "float8_e4m3fn":
        assert found(tmp_path, dtype, -math.inf) == ()
