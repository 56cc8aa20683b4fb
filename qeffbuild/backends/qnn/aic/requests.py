"""What the QNN SDK is not asked for Cloud AI 100, refused at the door."""

from __future__ import annotations

from collections.abc import Iterator

from qeffbuild.cloud_ai_100.requests import check_request, conflict
from qeffbuild.errors import BackendError, QeffBuildError
from qeffbuild.spec.types import BuildSpec


def check_aic(spec: BuildSpec) -> None:
    for fault in _conflicts(spec):
        raise fault
    check_request(spec)


def _conflicts(spec: BuildSpec) -> Iterator[QeffBuildError]:
    if spec.model.dtype == "bfloat16":
        yield conflict("model.dtype: bfloat16, but the converter makes every graph float16", "model.dtype=float16")
    options, stages = spec.backend.options, spec.device_group.mdp_num_partitions
    if stages > 1:
        yield conflict(
            f"device_group.mdp_num_partitions: {stages} stages, but QNN only slices tensors over devices",
            "device_group.mdp_num_partitions=1, or the other backend for this device",
        )
    prefix = options.kv_cache_prefix
    if prefix is not None and not (prefix.isascii() and prefix.isalnum()):
        yield BackendError("backend.option", f"backend.kv_cache_prefix: {prefix!r} has more than letters and digits")
