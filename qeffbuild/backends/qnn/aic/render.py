"""What was asked and the lowered graph -> a folder with all that the QNN tools read, and the two commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qeffbuild.backends.qnn.aic import command, documents
from qeffbuild.backends.qnn.aic.overrides import Overrides, read_overrides, skipped_for_nothing
from qeffbuild.backends.qnn.aic.sdk import EXTENSIONS, sdk_root
from qeffbuild.cloud_ai_100.folder import bring_weights
from qeffbuild.cloud_ai_100.names import COMMANDS, GRAPH, SPECIALIZATIONS
from qeffbuild.cloud_ai_100.specializations import specializations, with_windows
from qeffbuild.executor.work import Work
from qeffbuild.graph.files import load_graph
from qeffbuild.package import ADAPTERS, bring_adapters
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import SpecializationSpec


def run(work: Work) -> None:
    for name in (GRAPH, "io.json"):
        shutil.copyfile(work.inputs["graph"] / name, work.out / name)
    if bring_adapters(work.inputs["exported"], work.out) is not None:
        shutil.copyfile(work.inputs["exported"] / f"{ADAPTERS}.json", work.out / f"{ADAPTERS}.json")
    model = load_graph(work.out / GRAPH)
    weights = bring_weights(model, work.inputs["exported"], work.out)
    asked = Asked.read(work.params)
    overrides = read_overrides(work.leaves.get("config"))
    has_dlc = "dlc" in work.leaves
    if overrides.skips_converter and not has_dlc:
        raise skipped_for_nothing()
    own = work.leaves.get("templates")
    commands = write_documents(asked, overrides, IoSignature.load(work.out / "io.json"), work.out, own)
    if has_dlc:
        commands = commands[1:]
    (work.out / COMMANDS).write_text(json.dumps(commands, indent=1) + "\n")
    script = work.out / "compile.sh"
    script.write_text(documents.compile_script(commands, [command.DLC] if has_dlc else weights, command.OUTPUT, own))
    script.chmod(0o755)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of the spec the documents say."""

    options: Mapping[str, Any]
    shapes: SpecializationSpec
    continuous: bool
    mxfp6_matmul: bool
    mxint8_kv_cache: bool
    num_devices: int
    root: str

    @classmethod
    def read(cls, params: Mapping[str, Any]) -> Asked:
        shapes: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in params["specialization"].items()
        }
        return cls(
            options=params["options"],
            shapes=SpecializationSpec(**shapes),
            continuous=params["continuous_batching"],
            mxfp6_matmul=params["mxfp6_matmul"],
            mxint8_kv_cache=params["mxint8_kv_cache"],
            num_devices=params["num_devices"],
            root=sdk_root(params["sdk"]),
        )


def write_documents(
    asked: Asked, overrides: Overrides, signature: IoSignature, out: Path, own: Path | None = None
) -> list[list[str]]:
    """Writes the documents into `out`; the converter's and the generator's arguments, files by their names there."""
    entries = with_windows(specializations(asked.shapes, continuous=asked.continuous), signature)
    (out / SPECIALIZATIONS).write_text(documents.specializations_json(entries, own))
    state_dtype = "uint8" if asked.mxint8_kv_cache else "float16"
    (out / command.CUSTOM_IO).write_text(documents.custom_io_yaml(signature, entries, state_dtype, own))

    slices = None
    if asked.num_devices > 1:
        slices = command.SLICES
        (out / slices).write_text(documents.tensor_slicing_json(asked.num_devices, own))
    settings = {**documents.settings(asked, entries, slices), **overrides.settings}
    (out / command.COMPILE_BACKEND).write_text(documents.compile_backend_json(settings, own))
    library = f"{asked.root}/{EXTENSIONS}"
    config = documents.compiler_config_json(command.COMPILE_BACKEND, library, own)
    (out / command.COMPILER_CONFIG).write_text(config)

    has_data_format = asked.mxint8_kv_cache and bool(signature.states)
    if has_data_format:
        (out / command.DATA_FORMAT).write_text(documents.data_format_json(signature, entries, own))
    return [
        command.converter_argv(asked.root, overrides),
        command.generator_argv(asked.root, overrides, has_data_format=has_data_format),
    ]
