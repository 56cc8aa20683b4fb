"""What a user may ask of the Cloud AI 100 compiler, and what is refused before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from qeffbuild.cloud_ai_100.requests import check_request, conflict
from qeffbuild.errors import BackendError, QeffBuildError, SpecError
from qeffbuild.spec.types import BuildSpec, option

HwVersion = Literal["ai100", "ai200"]
SdkForm = Literal["named", "flat"]

MOST_CORES = {"ai100": 16}  # per device; nothing is known of ai200, so only the schema's bound holds there
DEFAULT_HW: HwVersion = "ai100"
PROBE = "probe"  # asked of the machine when a build begins
NAMED_SINCE = (1, 20)  # the first SDK that reads named specializations: assumed, no record says it


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the compiler for Cloud AI 100 is told."""

    num_cores: int = option(16, "AI cores of each device that the model is compiled for", low=1, high=64)
    mos: int | None = option(None, "the largest number of output channels per core; null: the compiler's choice", low=1)
    aic_enable_depth_first: bool = option(False, "schedule depth first")
    allow_mxint8_mdp_io: bool = option(False, "MXINT8 for what travels between devices")
    stats_level: int | None = option(None, "how much the compiled program measures of itself", low=0, high=100)
    node_precision_info: str | None = option(None, "a YAML file with the precision of single nodes", place=True)
    user_tiled: bool = option(False, "the graph is tiled already")
    io_encrypt: str | None = option(None, "how inputs and outputs are encrypted")
    mdp_load_partition_config: str | None = option(
        None, "your own partitions (a JSON file), instead of ours", place=True
    )
    mdp_dump_partition_config: str | None = option(None, "a file name under which the compiler leaves its partitions")
    mdp_strategy: Literal["onnx", "intersection"] = option(
        "onnx", "the nodes that a stage lists: all of its own; intersection: those that a dump of the compiler has"
    )
    mdp_compiler_dump_path: str | None = option(
        None, "intersection: the dump, as mdp_dump_partition_config leaves it (a JSON file)"
    )
    sub_functions: bool = option(False, "a function per kind of decoder layer, which the compiler compiles once")
    retain_full_kv: bool = option(False, "keep the whole context in every layer, sliding windows included")
    aic_hw_version: Literal["ai100", "ai200", "probe"] | None = option(
        None, "the cards; null: ai100; probe: as qaic-util says"
    )
    sdk_version: str | None = option(None, "the SDK, such as 1.20; null: a new one; probe: as its own file says")
    kv_cache_prefix: str | None = option(None, "a suffix of letters and digits for the names of keys and values")
    specialization_form: Literal["named", "flat"] | None = option(
        None, "flat: lists of symbols without names, for an older SDK; null: by sdk_version"
    )
    compiler: str | None = option(
        None, "the compiler; null: QEFFBUILD_QAIC_COMPILE, else where the SDK puts it", place=True
    )
    templates: str | None = option(None, "a folder of your own document templates, looked at before ours", place=True)
    extra_args: tuple[str, ...] = option((), "further arguments of the compiler, each -name or -name=value")

    @property
    def hw_version(self) -> HwVersion:
        return DEFAULT_HW if self.aic_hw_version in (None, PROBE) else self.aic_hw_version  # type: ignore[return-value]

    @property
    def form(self) -> SdkForm:
        """How specializations are written."""
        if self.specialization_form is not None:
            return self.specialization_form
        if self.sdk_version in (None, PROBE):
            return "named"
        return "named" if version_of(str(self.sdk_version)) >= NAMED_SINCE else "flat"


# The compiler's own words for what we write ourselves: no extra argument may say them again.
MANAGED = frozenset(
    {
        *("m", "aic-hw", "aic-hw-version", "retained-state", "convert-to-fp16", "mxfp6-matmul", "aic-num-cores"),
        *("mdp-load-partition-config", "mdp-dump-partition-config", "sub-functions", "compile-only"),
        *("network-specialization-config", "custom-io-list-file", "aic-binary-dir"),
        *("mos", "aic-enable-depth-first", "allow-mxint8-mdp-io", "stats-level", "node-precision-info"),
        *("user-tiled", "io-encrypt"),
    }
)

_EXTRA = re.compile(r"-([A-Za-z][A-Za-z0-9_-]*)(?:=(.+))?\Z")


def version_of(said: str) -> tuple[int, ...]:
    """1.20.0 -> (1, 20, 0)."""
    if not re.fullmatch(r"\d{1,4}(\.\d{1,6}){1,4}", said):
        found = f"backend.sdk_version: {said[:40]!r} is no version"
        raise BackendError("backend.option", found, hint=f"such as 1.20, or {PROBE}")
    return tuple(map(int, said.split(".")))


def check(spec: BuildSpec) -> None:
    """Refuses what this backend cannot do or would have to change quietly."""
    for fault in (*_conflicts(spec), *_devices(spec)):
        raise fault
    check_request(spec)
    _check_names(spec.backend.options)
    if spec.backend.options.sdk_version not in (None, PROBE):
        version_of(spec.backend.options.sdk_version)
    _check_extra_args(spec.backend.options.extra_args)


def _conflicts(spec: BuildSpec) -> Iterator[QeffBuildError]:
    options = spec.backend.options
    if spec.model.dtype == "bfloat16" and options.hw_version != "ai200" and options.aic_hw_version != PROBE:
        yield conflict(
            f"model.dtype: bfloat16, but {options.hw_version} computes in float16",
            "model.dtype=float16, or backend.aic_hw_version=ai200 for cards that have bfloat16",
        )
    if options.sub_functions and spec.transforms.blocking_mode != "none":
        yield conflict(
            "backend.sub_functions: a function cannot hold the loops of transforms.blocking_mode",
            "leave one of them out",
        )
    most = MOST_CORES.get(options.hw_version)
    if most is not None and options.num_cores > most:
        found = f"backend.num_cores: {options.num_cores} is out of range, which is 1 to {most}"
        yield SpecError("spec.range", found, hint=f"an {options.hw_version} device has {most} cores")


def _strategy(options: Options, stages: int) -> Iterator[QeffBuildError]:
    key, dump = "backend.mdp_strategy", options.mdp_compiler_dump_path
    if options.mdp_strategy == "onnx":
        if dump is not None:
            found = "backend.mdp_compiler_dump_path: only the intersection reads it"
            yield conflict(found, "backend.mdp_strategy=intersection")
        return
    if stages == 1:
        yield conflict(f"{key}: intersection, but there are no stages", "device_group.mdp_num_partitions=2")
    if dump is None:
        hint = "compile once with backend.mdp_dump_partition_config=dump.json, then backend.mdp_compiler_dump_path=FILE"
        yield SpecError(
            "spec.missing", f"{key}: an intersection with a dump of the compiler, but none is named", hint=hint
        )


def _devices(spec: BuildSpec) -> Iterator[QeffBuildError]:
    group, options = spec.device_group, spec.backend.options
    stages, devices = group.mdp_num_partitions, group.size
    yield from _strategy(options, stages)
    if stages == 1:
        return
    key = "device_group.mdp_num_partitions"
    if devices % stages and not group.allow_uneven:
        allowed = ", ".join(str(number) for number in range(1, devices + 1) if devices % number == 0)
        yield SpecError(
            "spec.divides",
            f"{key}: {devices} devices do not divide into {stages} stages: some would be left unused",
            hint=f"with {devices} devices use one of: {allowed}; device_group.allow_uneven=true leaves them unused",
        )
    layers = spec.model.num_hidden_layers
    if layers is not None and stages > layers and not group.allow_uneven:
        yield SpecError(
            "spec.range", f"{key}: {stages} stages, but the model has {layers} layers", hint=f"{key}={layers}"
        )
    for name in ("mdp_load_partition_config", "mdp_dump_partition_config"):
        if getattr(options, name) is not None:
            yield conflict(f"backend.{name}: it takes the place of the stages that {key}={stages} asks for", f"{key}=1")


def _check_names(options: Options) -> None:
    prefix, dump = options.kv_cache_prefix, options.mdp_dump_partition_config
    if prefix is not None and not (prefix.isascii() and prefix.isalnum()):
        raise BackendError("backend.option", f"backend.kv_cache_prefix: {prefix!r} has more than letters and digits")
    if dump is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", dump):
        raise BackendError(
            "backend.option",
            f"backend.mdp_dump_partition_config: {dump!r} is no plain file name",
            hint="name a file without folders: it lands in the result of the compile step",
        )


def _check_extra_args(arguments: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for argument in arguments:
        name = _name_of(argument)
        if name in MANAGED:
            raise BackendError(
                "backend.option",
                f"backend.extra_args: -{name} is written by us and may not be said again",
                hint="use the key of the same name, or leave it out",
            )
        if name in seen:
            raise BackendError("backend.option", f"backend.extra_args: -{name} is said twice", hint="say it once")
        seen.add(name)


def _name_of(argument: str) -> str:
    """The compiler's word for an argument, as it is compared: however it is spelt, it is one option."""
    said = _EXTRA.match(argument)
    if said is None or not argument.isprintable():
        raise BackendError(
            "backend.option",
            f"backend.extra_args: {argument!r} is neither -name nor -name=value",
            hint='one argument each: backend.extra_args=["-name=value"]',
        )
    return said[1].lower().replace("_", "-")
