"""All private API that the export stands on, in one place: transformers.exporters and torch.onnx internals.

transformers ships patches that make its models traceable and ONNX-convertible, but only behind an exporter class that
wants real weights and writes no retained state; so the registries behind that class are used directly. torch.onnx runs
`run_decompositions` first, which is four fifths of its time; a handful of rewrites does what our graphs need of it.
Written against transformers 5.23 and torch 2.13; a name that has moved is reported as a missing tool, not as a bug.
"""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from qeffbuild.errors import AbsentError

try:
    from torch.onnx._internal.exporter import _core, _fx_passes
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    from transformers.exporters import exporter_dynamo, exporter_onnx
    from transformers.exporters import utils as exporter_utils
except ImportError as error:
    raise AbsentError(
        "tool.absent",
        f"the installed transformers or torch lacks what the export uses: {error}",
        hint="install the versions of the constraints file: transformers 5.23, torch 2.13",
    ) from error

__all__ = [
    "WeightConverter",
    "WeightRenaming",
    "conversion_mapping",
    "dot_natural_key",
    "rename_source_key",
    "to_onnx_program",
    "traceable",
]

aten = torch.ops.aten

# What these do to a value matters to PyTorch's memory, not to a graph of values.
IDENTITIES = frozenset(
    {
        aten.contiguous.default,
        aten.clone.default,
        aten.dropout.default,
        aten.detach.default,
        aten.detach_.default,
        aten.alias.default,
        aten.lift_fresh_copy.default,
    }
)
CASTS = frozenset({aten.to.dtype, aten.to.dtype_layout, aten.to.device})
SPELLINGS = {aten.__and__.Tensor: aten.bitwise_and.Tensor, aten.__or__.Tensor: aten.bitwise_or.Tensor}


@contextlib.contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """transformers' own replacements of what torch.export cannot trace, for the length of the block."""
    with (
        torch.no_grad(),
        exporter_utils.apply_patches("dynamo"),
        exporter_utils.apply_patches("onnx"),
        exporter_dynamo.reset_model_state(model),
    ):
        yield


def to_onnx_program(
    program: torch.export.ExportedProgram,
    *,
    input_names: list[str],
    output_names: list[str],
    translations: Mapping[Any, Callable[..., Any]],
    opset: int,
    decompose: bool,
) -> Any:
    """torch.onnx.export under transformers' fixes; the result's `model` is an onnx_ir.Model."""
    table = {**exporter_onnx._ONNX_TRANSLATION_TABLE, **translations}
    with (
        exporter_utils.apply_patches("onnx"),
        contextlib.nullcontext() if decompose else _without_decompositions(),
        warnings.catch_warnings(),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        exporter_utils.apply_fx_node_fixes("onnx", program.graph_module)
        made = torch.onnx.export(
            program,
            args=(),
            input_names=input_names,
            output_names=output_names,
            custom_translation_table=table,
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
    assert made is not None
    exporter_onnx._name_graph_outputs(made.model.graph, output_names)
    exporter_onnx.apply_onnx_ir_fixes(made)
    return made


def conversion_mapping(model: Any) -> list[Any]:
    """transformers' rules from checkpoint tensors to this model's parameters: renamings and converters."""
    return get_model_conversion_mapping(model)


@contextlib.contextmanager
def _without_decompositions() -> Iterator[None]:
    before = _core._prepare_exported_program_for_export
    _core._prepare_exported_program_for_export = _prepare  # type: ignore[assignment]
    try:
        yield
    finally:
        _core._prepare_exported_program_for_export = before


def _prepare(program: torch.export.ExportedProgram, *, registry: Any) -> torch.export.ExportedProgram:
    """What torch.onnx does before it converts, with rewrites in place of decompositions."""
    module = program.graph_module
    _fx_passes.insert_type_promotion_nodes(module)
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            _rewrite(module.graph, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    exporter_utils.apply_fx_node_fixes("onnx", module)
    return program


def _rewrite(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    if node.target in SPELLINGS:
        node.target = SPELLINGS[node.target]
    elif node.target is aten.numpy_T.default and _operand(node).meta["val"].dim() == 2:
        node.target = aten.t.default
    elif node.target is torch._C._set_grad_enabled:
        graph.erase_node(node)
    elif node.target in IDENTITIES or (node.target in CASTS and _dtype(_operand(node)) == _dtype(node)):
        _drop(graph, node)
    elif node.target in CASTS:
        _cast(node)
    elif _works_in_place(node):
        _make_value(node)


def _operand(node: torch.fx.Node) -> Any:
    """What the operator works on; fx's own type for it names everything that an argument can be."""
    return node.args[0]


def _dtype(node: Any) -> torch.dtype:
    return node.meta["val"].dtype


def _cast(node: torch.fx.Node) -> None:
    node.target, node.kwargs = aten._to_copy.default, {"dtype": _dtype(node)}
    node.args = node.args[:1]


def _drop(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    if any(user.op == "output" for user in node.users):
        # The program's signature knows its outputs by name, so this one stays, as a cast to the dtype it has.
        _cast(node)
        return
    node.replace_all_uses_with(_operand(node))
    graph.erase_node(node)


def _works_in_place(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _make_value(node: torch.fx.Node) -> None:
    """x.op_(y) -> op(x, y), read by all who would have read x afterwards; only where nobody shares x's memory."""
    target: Any = node.target
    changed = _operand(node)
    packet = getattr(aten, target.overloadpacket.__name__.removesuffix("_"), None)
    plain = getattr(packet, target._overloadname, None)
    if plain is None or _is_view(changed) or any(_is_view(user) for user in changed.users):
        raise NotImplementedError(f"{target} works in place on memory that others may read")
    node.target = plain
    after = {later for later in _following(node) if later in changed.users}
    changed.replace_all_uses_with(node, delete_user_cb=after.__contains__)


def _following(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    while (node := node.next).op != "root":
        yield node


def _is_view(node: torch.fx.Node) -> bool:
    """Whether the node's result may share memory with its inputs; inputs of the graph share with everybody."""
    if node.op == "output":
        return False
    if node.target is operator.getitem:
        return _is_view(_operand(node))
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return True
    return any(argument.alias_info is not None and not argument.alias_info.is_write for argument in schema.arguments)
