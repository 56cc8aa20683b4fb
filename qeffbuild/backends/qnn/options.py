"""What a user may ask of QNN, for Hexagon or for Cloud AI 100, and what is refused before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from qeffbuild.backends.qnn.aic.requests import check_aic
from qeffbuild.backends.qnn.htp.chips import DEFAULT_SOC
from qeffbuild.backends.qnn.htp.requests import check_htp
from qeffbuild.errors import BackendError
from qeffbuild.spec.types import BuildSpec, option

Target = Literal["htp", "aic"]
Precision = Literal["float16", "a16w8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the compilers of QNN are told. Each target has its own: the other's are refused."""

    target: Literal["htp", "aic"] = option("htp", "htp: Hexagon, from pip; aic: Cloud AI 100, by the QNN SDK")

    soc_model: int = option(DEFAULT_SOC, "htp: the chip, as QNN numbers them", low=1, high=10_000)
    htp_arch: int | None = option(None, "htp: its architecture; null: the one that the chip has", low=1, high=1000)
    vtcm_mb: int | None = option(8, "htp: fast memory of a graph; null: the compiler's choice", low=1, high=64)
    optimization: int = option(3, "htp: how long the compiler tries, 0 (least) to 3", low=0, high=3)
    precision: Literal["float16", "a16w8"] = option(
        "float16", "htp: a16w8: matrix products of 8-bit weights and 16-bit activations"
    )
    calibration_file: str | None = option(
        None, "htp, a16w8: a text whose activations are measured; null: the model's eval_file", place=True
    )
    weight_sharing: bool = option(False, "htp: one binary for prefill and decode; the simulator cannot load it")
    dlc: bool = option(False, "htp: keep each graph as a DLC, too")
    tolerance: float | None = option(
        0.1,
        "htp: how far logits may be from the processor's, in their standard deviations; null: not compared",
        low=0.0,
        high=100.0,
    )

    num_cores: int = option(16, "aic: cores of each device that the model is compiled for", low=1, high=16)
    mos: int | None = option(
        None, "aic: the largest number of output channels per core; null: the compiler's choice", low=1
    )
    aic_enable_depth_first: bool = option(False, "aic: schedule depth first")
    allow_mxint8_mdp_io: bool = option(False, "aic: MXINT8 for what travels between devices")
    stats_level: int = option(10, "aic: how much the compiled program measures of itself", low=0, high=100)
    kv_cache_prefix: str | None = option(None, "aic: a suffix of letters and digits for the names of keys and values")
    retain_full_kv: bool = option(False, "aic: keep the whole context in every layer, sliding windows included")
    config: str | None = option(None, "aic: a JSON file that overrides what the tools are told", place=True)
    sdk: str | None = option(
        None, "aic: the SDK's folder; null: QNN_SDK_ROOT, else /opt/qcom/aistack/qairt", place=True
    )
    dlc_file: str | None = option(None, "aic: a DLC of your own, in place of what the converter makes", place=True)
    templates: str | None = option(
        None, "aic: a folder of your own document templates, looked at before ours", place=True
    )


_HTP = frozenset(
    {
        *("soc_model", "htp_arch", "vtcm_mb", "optimization", "precision", "calibration_file"),
        *("weight_sharing", "dlc", "tolerance"),
    }
)


def check(spec: BuildSpec) -> None:
    """Refuses what the chosen target cannot do or would have to change quietly."""
    options = spec.backend.options
    for field in fields(options):
        belongs_to = "htp" if field.name in _HTP else "aic"
        if field.name == "target" or belongs_to == options.target or getattr(options, field.name) == field.default:
            continue
        raise BackendError(
            "backend.option",
            f"backend.{field.name}: an option of target={belongs_to}, but target is {options.target}",
            hint=f"leave it out, or say backend.target={belongs_to}",
        )
    if options.target == "htp":
        check_htp(spec)
    else:
        check_aic(spec)
