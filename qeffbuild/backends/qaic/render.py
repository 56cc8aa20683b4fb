"""What was asked and the lowered graph -> a folder that holds all that the compiler reads, and the command itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from qeffbuild.backends.qaic import documents
from qeffbuild.backends.qaic.command import CUSTOM_IO, Files, compile_argv
from qeffbuild.backends.qaic.machine import partition_nodes_of
from qeffbuild.backends.qaic.options import Options
from qeffbuild.backends.qaic.pipeline import intersect, split_into_stages
from qeffbuild.cloud_ai_100.bring import bring_facts, bring_graph
from qeffbuild.cloud_ai_100.exported import Exported
from qeffbuild.cloud_ai_100.folder import bring_weights
from qeffbuild.cloud_ai_100.image_shapes import vision_specializations
from qeffbuild.cloud_ai_100.layers import partition_nodes
from qeffbuild.cloud_ai_100.names import COMMANDS, GRAPH, IMAGE_FACTS, PROGRAMS, SPECIALIZATIONS
from qeffbuild.cloud_ai_100.reader_shapes import specializations_of
from qeffbuild.errors import BackendError
from qeffbuild.executor.work import Work
from qeffbuild.graphs import Member, members
from qeffbuild.signature import IoSignature
from qeffbuild.spec.types import QuantizationSpec, SpecializationSpec

OURS = frozenset({GRAPH, SPECIALIZATIONS, CUSTOM_IO, COMMANDS, IMAGE_FACTS, "io.json", "vision.onnx", "compile.sh"})


def run(work: Work) -> None:
    bring_facts(work.inputs["exported"], work.out)
    asked = Asked.read(work.params, Exported.read(work.inputs["exported"]))
    main, *others = members(work.inputs["graph"])
    commands, weights = [], dict[str, None]()
    for member in (*others, main):  # what sees comes first
        model, signature = bring_graph(work, member, one_row=asked.exported.sees_one_row(asked.shapes))
        weights |= dict.fromkeys(bring_weights(model, work.inputs["exported"], work.out, member.prefix))
        if member is main:
            commands.append(write_documents(asked, model, signature, work.leaves, work.out))
        else:
            commands.append(write_vision(asked, member, work.leaves.get("templates"), work.out))
    (work.out / COMMANDS).write_text(json.dumps(commands, indent=1) + "\n")
    script = work.out / "compile.sh"
    script.write_text(documents.compile_script(commands, list(weights), work.leaves.get("templates")))
    script.chmod(0o755)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What of the spec the documents say."""

    options: Options
    shapes: SpecializationSpec
    quantization: QuantizationSpec
    continuous: bool
    dtype: Any
    num_devices: int
    stages: int
    exported: Exported

    @classmethod
    def read(cls, params: Mapping[str, Any], exported: Exported) -> Asked:
        return cls(
            options=Options(**_tuples(params["options"])),
            shapes=SpecializationSpec(**_tuples(params["specialization"])),
            quantization=QuantizationSpec(
                mxfp6_matmul=params["mxfp6_matmul"], mxint8_kv_cache=params["mxint8_kv_cache"]
            ),
            continuous=params["continuous_batching"],
            dtype=params["dtype"],
            num_devices=params["num_devices"],
            stages=params["mdp_num_partitions"],
            exported=exported,
        )


def write_documents(
    asked: Asked, model: ir.Model, signature: IoSignature, named: Mapping[str, Path], out: Path
) -> list[str]:
    """Writes the documents into `out`; the compiler's arguments, with all files by their names there.

    `named` holds the files that options name, and a user's templates.
    """
    own, options = named.get("templates"), asked.options
    entries = specializations_of(asked.exported, asked.shapes, signature, continuous=asked.continuous)
    text = documents.specializations_json(entries, options.form, own)
    (out / SPECIALIZATIONS).write_text(text)

    precision = documents.state_precision(asked.dtype, mxint8=asked.quantization.mxint8_kv_cache)
    custom_io = None
    if precision is not None and signature.states:
        custom_io = CUSTOM_IO
        (out / CUSTOM_IO).write_text(documents.custom_io_yaml(signature, precision, own))

    stages, slices = _partitions(asked, model, named, out)
    files = Files(
        custom_io=custom_io,
        stages=stages,
        slices=slices,
        node_precision_info=_taken(named, "node_precision_info", out, _any_text),
    )
    return compile_argv(options, asked.quantization, asked.dtype, files, has_states=bool(signature.states))


def write_vision(asked: Asked, member: Member, own: Path | None, out: Path) -> list[str]:
    """The documents of the graph that sees, in a folder of its name, and the compiler's arguments.

    What options say of nodes and of the decoder's layers is not said of it; its weights keep their precision.
    """
    assert asked.exported.images is not None, "a graph that sees has images"
    folder, cores = out / member.name, asked.options.num_cores
    folder.mkdir()
    text = documents.specializations_json(vision_specializations(asked.exported.images), asked.options.form, own)
    (folder / SPECIALIZATIONS).write_text(text)
    (folder / CUSTOM_IO).write_text(documents.custom_io_yaml(member.signature, "float16", own))
    slices = None
    if asked.num_devices > 1:
        slices = documents.slice_file(asked.num_devices)
        (folder / slices).write_text(documents.tensor_slice_json(asked.num_devices, cores, own))
    files = Files(
        graph=member.file,
        specializations=f"{member.name}/{SPECIALIZATIONS}",
        custom_io=f"{member.name}/{CUSTOM_IO}",
        slices=slices and f"{member.name}/{slices}",
        output=f"{member.name}/{PROGRAMS}",
    )
    options = replace(asked.options, sub_functions=False, mdp_dump_partition_config=None)
    plain = replace(asked.quantization, mxfp6_matmul=False)
    return compile_argv(options, plain, asked.dtype, files, has_states=False)


def _partitions(asked: Asked, model: ir.Model, named: Mapping[str, Path], out: Path) -> tuple[str | None, str | None]:
    """The names of the pipeline's (or a user's) partitions, and of the tensor slices: one of them, or neither."""
    own, cores = named.get("templates"), asked.options.num_cores
    if "mdp_load_partition_config" in named:
        known = {name for name, _ in partition_nodes(model)}
        check = partial(_check_partitions, known=known)
        return _taken(named, "mdp_load_partition_config", out, check), None
    if asked.stages > 1:
        split = split_into_stages(partition_nodes(model), asked.stages, asked.num_devices)
        if (dump := named.get("mdp_compiler_dump_path")) is not None:
            split = intersect(split, partition_nodes_of(dump, "mdp_compiler_dump_path"))
        name = documents.pipeline_file(asked.num_devices, asked.stages)
        (out / name).write_text(documents.pipeline_json(split, cores, own))
        return name, None
    if asked.num_devices > 1 and asked.options.mdp_dump_partition_config is None:
        name = documents.slice_file(asked.num_devices)
        (out / name).write_text(documents.tensor_slice_json(asked.num_devices, cores, own))
        return None, name
    return None, None


def _taken(named: Mapping[str, Path], option: str, out: Path, check: Callable[[Path], None]) -> str | None:
    """Copies the file that an option names, so that the folder is whole; its name."""
    path = named.get(option)
    if path is None:
        return None
    if not path.is_file():
        raise BackendError("backend.file", f"backend.{option}: {path} is no file", hint="is the path right?")
    if path.name in OURS:
        raise BackendError(
            "backend.file", f"backend.{option}: {path.name} is the name of a file of ours", hint="rename it"
        )
    check(path)
    shutil.copyfile(path, out / path.name)
    return path.name


def _any_text(path: Path) -> None:
    """What the compiler wants in a precision file is not known to us."""


def _check_partitions(path: Path, known: set[str]) -> None:
    listed = partition_nodes_of(path, "mdp_load_partition_config")
    if strangers := [node for node in listed if node not in known]:
        found = (
            f"backend.mdp_load_partition_config: {len(strangers)} nodes are not in the graph, {strangers[0]!r} first"
        )
        raise BackendError("backend.file", found, hint="write it for this graph: qeffbuild emit shows its node names")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Lists of JSON as the tuples that they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
