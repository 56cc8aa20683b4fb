"""Template and values -> document: filled in a sandbox, within limits, and read back before anyone else reads it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from qeffbuild.errors import TemplateError
from qeffbuild.paths import resource_dir
from qeffbuild.rendering.bounded import Limits, run_bounded
from qeffbuild.rendering.shape import Shape, mismatch

log = logging.getLogger(__name__)

Result = Literal["json", "yaml", "text"]


def render(
    template_name: str,
    context: Mapping[str, Any],
    *,
    result: Result = "text",
    shape: Shape = None,
    own: Path | None = None,
    limits: Limits | None = None,
) -> str:
    """The document that `template_name` ("qaic/custom_io.yaml.j2") makes of `context`.

    `own` is a user's folder of templates, looked at before the packaged one. A JSON document ends without a newline,
    as `json.dumps` writes it. Raises TemplateError (`template.*`), or LimitError when it does not come to an end.
    """
    limits = limits or Limits()
    folders = [folder for folder in (own, resource_dir("templates")) if folder is not None]
    if own is not None and (own / template_name).is_file():
        log.warning("template %s: %s is used instead of the packaged one", template_name, own / template_name)

    # Imported here, not by the planning half; and before the fork, so that every child has it already.
    from qeffbuild.rendering.sandbox import fill_template

    def fill() -> str:
        return fill_template(folders, template_name, context, max_bytes=limits.output_bytes)

    text = run_bounded(fill, template_name, limits)
    if result == "text":
        return text
    if result == "json":
        text = text.rstrip("\n")
    _check(template_name, text, result, shape)
    return text


def _check(template_name: str, text: str, result: Result, shape: Shape) -> None:
    value = _parsed(template_name, text, result)
    if shape is not None and (fault := mismatch(value, shape)):
        raise TemplateError("template.result", f"{template_name}: the {result} that it makes is wrong: {fault}")


def _parsed(template_name: str, text: str, result: Result) -> Any:
    if result == "json":
        import json

        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _unreadable(template_name, result, error) from error
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2020-99-99
        raise _unreadable(template_name, result, error) from error


def _unreadable(template_name: str, result: Result, error: Exception) -> TemplateError:
    return TemplateError(
        "template.result",
        f"{template_name}: what it makes is not {result}: {error}",
        hint=f"write values as {{{{ value | {result} }}}}: then quotes and line breaks are escaped",
    )
