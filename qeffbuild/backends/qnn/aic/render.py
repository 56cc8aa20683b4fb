"""What was asked and the lowered graph -> a folder with all that the QNN tools read, and the two commands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qeffbuild.backends.qnn.aic import command, documents
from qeffbuild.backends.qnn.aic.overrides import Overrides, read_overrides, skipped_for_nothing
from qeffbuild.backends.qnn.aic.sdk import EXTENSIONS, sdk_root
from qeffbuild.cloud_ai_100.bring import bring_facts, bring_graph
from qeffbuild.cloud_ai_100.exported import Exported
from qeffbuild.cloud_ai_100.folder import bring_weights
from qeffbuild.cloud_ai_100.image_shapes import vision_specializations
from qeffbuild.cloud_ai_100.names import COMMANDS, GRAPH, SPECIALIZATIONS
from qeffbuild.cloud_ai_100.reader_shapes import specializations_of
from qeffbuild.cloud_ai_100.specializations import Specialization
from qeffbuild.errors import BackendError
from qeffbuild.executor.work import Work
from qeffbuild.graphs import Member, members
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import SpecializationSpec


def run(work: Work) -> None:
    bring_facts(work.inputs["exported"], work.out)
    asked = Asked.read(work.params, Exported.read(work.inputs["exported"]))
    overrides = read_overrides(work.leaves.get("config"))
    has_dlc = "dlc" in work.leaves
    if overrides.skips_converter and not has_dlc:
        raise skipped_for_nothing()
    own = work.leaves.get("templates")
    main, *others = members(work.inputs["graph"])
    if has_dlc and others:
        raise BackendError("backend.option", "backend.dlc_file: one DLC, but two programs are made", hint=_ONE_PROGRAM)
    commands, weights = [], dict.fromkeys([command.DLC] if has_dlc else [])
    for member in (*others, main):  # what sees comes first
        model, signature = bring_graph(work, member, one_row=asked.exported.sees_one_row(asked.shapes))
        needed = bring_weights(model, work.inputs["exported"], work.out, member.prefix)
        if not has_dlc:
            weights |= dict.fromkeys(needed)
        said = write_documents(asked, overrides, signature, work.out, own, None if member is main else member)
        commands += said[1:] if has_dlc else said
    (work.out / COMMANDS).write_text(json.dumps(commands, indent=1) + "\n")
    script = work.out / "compile.sh"
    outputs = [command.made_by(argv).rpartition("/")[0] for argv in commands if "--output_dir" in argv]
    script.write_text(documents.compile_script(commands, list(weights), outputs, own))
    script.chmod(0o755)


_ONE_PROGRAM = "model.kv_offload=false makes one"


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
    exported: Exported

    @classmethod
    def read(cls, params: Mapping[str, Any], exported: Exported) -> Asked:
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
            exported=exported,
        )


def write_documents(
    asked: Asked,
    overrides: Overrides,
    signature: IoSignature,
    out: Path,
    own: Path | None = None,
    beside: Member | None = None,
) -> list[list[str]]:
    """Writes the documents into `out`; the converter's and the generator's arguments, files by their names there.

    Those of a graph `beside` the main one, which sees, go into a folder of its name; its weights keep their precision.
    """
    prefix, mxfp6 = "", asked.mxfp6_matmul
    if beside is not None:
        prefix, mxfp6 = f"{beside.name}/", False
        (out / beside.name).mkdir()
    entries = _entries(asked, signature, is_vision=beside is not None)
    (out / f"{prefix}{SPECIALIZATIONS}").write_text(documents.specializations_json(entries, own))
    state_dtype = "uint8" if asked.mxint8_kv_cache else "float16"
    fed = signature if beside is None else _in_halves(signature)
    (out / f"{prefix}{command.CUSTOM_IO}").write_text(documents.custom_io_yaml(fed, entries, state_dtype, own))

    slices = None
    if asked.num_devices > 1:
        slices = f"{prefix}{command.SLICES}"
        (out / slices).write_text(documents.tensor_slicing_json(asked.num_devices, own))
    settings = {**documents.settings(replace(asked, mxfp6_matmul=mxfp6), entries, slices), **overrides.settings}
    (out / f"{prefix}{command.COMPILE_BACKEND}").write_text(documents.compile_backend_json(settings, own))
    library = f"{asked.root}/{EXTENSIONS}"
    config = documents.compiler_config_json(f"{prefix}{command.COMPILE_BACKEND}", library, own)
    (out / f"{prefix}{command.COMPILER_CONFIG}").write_text(config)

    has_data_format = asked.mxint8_kv_cache and bool(signature.states)
    if has_data_format:
        (out / f"{prefix}{command.DATA_FORMAT}").write_text(documents.data_format_json(signature, entries, own))
    graph = GRAPH if beside is None else beside.file
    return [
        command.converter_argv(asked.root, overrides, graph=graph, prefix=prefix),
        command.generator_argv(asked.root, overrides, has_data_format=has_data_format, prefix=prefix),
    ]


def _in_halves(signature: IoSignature) -> IoSignature:
    """What is seen goes in and out as the decoder holds it."""
    inputs, outputs = (
        tuple(replace(each, dtype="float16") if each.dtype == "float32" else each for each in some)
        for some in (signature.inputs, signature.outputs)
    )
    return replace(signature, inputs=inputs, outputs=outputs)


def _entries(asked: Asked, signature: IoSignature, *, is_vision: bool) -> tuple[Specialization, ...]:
    if is_vision:
        assert asked.exported.images is not None, "a graph that sees has images"
        return vision_specializations(asked.exported.images)
    return specializations_of(asked.exported, asked.shapes, signature, continuous=asked.continuous)
