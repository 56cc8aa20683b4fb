"""All private API that the export stands on, in one place: transformers.exporters and torch.onnx internals.

transformers ships patches that make its models traceable and ONNX-convertible, but only behind an exporter class that
wants real weights and writes no retained state; so the registries behind that class are used directly. torch.onnx
spends most of its time on what one graph does not need (decompositions, signatures of a thousand translations, a second
run of every node), so its parts are called one by one.
Written against transformers 5.23 and torch 2.13; a name that has moved is reported as a missing tool, not as a bug.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from qeffbuild.errors import AbsentError
from qeffbuild.export.reasons import MODELING
from qeffbuild.export.rewrites import rewrite

try:
    from onnxscript.function_libs.torch_lib import ops as _filled  # noqa: F401  the registry, by being imported
    from onnxscript.function_libs.torch_lib.registration import default_registry
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.onnx._internal.exporter import _core
    from torch.onnx._internal.exporter._registration import OnnxDecompMeta, ONNXRegistry
    from torch.onnx._internal.exporter._torchlib._torchlib_registry import get_torchlib_ops
    from torch.onnx._internal.fx.passes import type_promotion
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

Translations = Mapping[Any, Callable[..., Any]]


@contextlib.contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """transformers' own replacements of what torch.export cannot trace, for the length of the block."""
    # Where each node comes from in the sources is read by nobody, so it is not looked up.
    ours = [
        (torch.fx.config, "do_not_emit_stack_traces", lambda before: True),
        (ShapeEnv, "_get_user_frame", _line_of_model),
    ]
    told = exporter_utils.patch_attributes(ours)
    with torch.no_grad(), _patched("dynamo"), _patched("onnx"), exporter_dynamo.reset_model_state(model), told:
        yield


def to_onnx_program(
    program: torch.export.ExportedProgram,
    *,
    input_names: list[str],
    output_names: list[str],
    translations: Translations,
    opset: int,
    decompose: bool,
) -> Any:
    """torch.onnx.export under transformers' fixes; the result's `model` is an onnx_ir.Model."""
    table = {**exporter_onnx._ONNX_TRANSLATION_TABLE, **translations}
    with _patched("onnx"), _quiet(), torch.no_grad():
        exporter_utils.apply_fx_node_fixes("onnx", program.graph_module)
        with contextlib.nullcontext() if decompose else _without_decompositions():
            made = _core.export(
                program,
                registry=_complete_registry(table, opset) if decompose else _Registry(table, opset),
                input_names=input_names,
                output_names=output_names,
                opset_version=opset,
                optimize=False,
                verbose=False,
            )
    exporter_onnx._name_graph_outputs(made.model.graph, output_names)
    exporter_onnx.apply_onnx_ir_fixes(made)
    return made


def _line_of_model(before: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Where something was asked about a size: the line of the model's own code, if any of it is running."""

    def frame(env: Any) -> Any:
        found: Any = sys._getframe(1)
        while found is not None and not MODELING.search(found.f_code.co_filename):
            found = found.f_back
        return found or before(env)

    return frame


def conversion_mapping(model: Any) -> list[Any]:
    """transformers' rules from checkpoint tensors to this model's parameters: renamings and converters."""
    return get_model_conversion_mapping(model)


@contextlib.contextmanager
def _patched(backend: str) -> Iterator[None]:
    """transformers' patches for a backend, but those of other models: applying one would import its model first."""
    patches = [
        (exporter_utils.import_dotted_path(path), attribute, factory)
        for path, attribute, factory in exporter_utils._PATCHES[backend]
        if _is_loaded(path)
    ]
    with exporter_utils.patch_attributes(patches):
        yield


def _is_loaded(path: str) -> bool:
    parts = path.split(".")
    return parts[:2] != ["transformers", "models"] or ".".join(parts[:4]) in sys.modules


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx warns of translations whose arguments have no plain types; they are found by their operator alone."""
    talk = logging.getLogger("torch.onnx._internal.exporter")
    before = talk.level
    talk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.setLevel(before)


class _Registry(ONNXRegistry):
    """torch.onnx's translations, read up when an operator is met: most of a thousand never are."""

    def __init__(self, table: Translations, opset: int) -> None:
        super().__init__()
        self._opset_version = opset
        self.table = table
        self.of_torch: dict[Any, list[OnnxDecompMeta]] = {}
        for meta in get_torchlib_ops():
            self.of_torch.setdefault(meta.fx_target, []).append(meta)

    def get_decomps(self, target: Any) -> list[OnnxDecompMeta]:
        name = target.name() if isinstance(target, torch._ops.OpOverload) else target
        if name not in self.functions:
            self.functions[name] = list(self._found(target))
        return super().get_decomps(target)

    def _found(self, target: Any) -> Iterator[OnnxDecompMeta]:
        if target in self.table:
            yield OnnxDecompMeta(self.table[target], target, signature=None, is_custom=True)
            return
        known = [meta for meta in self.of_torch.get(target, []) if meta.opset_introduced <= self.opset_version]
        newest = max((meta.opset_introduced for meta in known), default=0)
        yield from (meta for meta in known if meta.opset_introduced == newest)
        if known:
            return
        for function in _of_onnxscript(target):
            yield OnnxDecompMeta(function, target, signature=None)


def _of_onnxscript(target: Any) -> list[Any]:
    if isinstance(target, torch._ops.OpOverload):
        name = target.name()
    else:
        name = f"{getattr(target, '__module__', '')}::{getattr(target, '__name__', '')}"
    return list(default_registry[name].overloads) if name in default_registry else []


def _complete_registry(table: Translations, opset: int) -> ONNXRegistry:
    """Every translation: what has one is what decompositions stop at."""
    registry = ONNXRegistry.from_torchlib(opset_version=opset)
    for target, function in table.items():
        registry.register_op(target, function)
    return registry


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
    promotion = type_promotion.InsertTypePromotion(module)
    promotion.interpreter = _Promotion(module, type_promotion.TypePromotionTable())
    promotion.run()
    rewrite(module)
    exporter_utils.apply_fx_node_fixes("onnx", module)
    return program


class _Promotion(type_promotion._TypePromotionInterpreter):
    """Makes promotions explicit; runs again only those nodes to which something was done."""

    def run_node(self, n: torch.fx.Node) -> Any:
        if n.op != "call_function" or "val" not in n.meta:
            return super().run_node(n)
        rule = type_promotion.get_type_promotion_rule(n, self.type_promotion_table)
        if rule is not None:
            with self._set_current_node(n):
                self._maybe_promote_node(n, rule)
        return n.meta["val"]
