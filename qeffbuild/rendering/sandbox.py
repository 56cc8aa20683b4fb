"""One template, filled in Jinja's sandbox: every fault becomes a TemplateError with the template's file and line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from qeffbuild.errors import TemplateError

# A YAML scalar that needs no quotes and is text in every YAML version: no null, true, 1e3, 0x1F.
_PLAIN_YAML = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*(?:/[A-Za-z0-9_.]+)*\Z")
_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def fill_template(folders: Sequence[Path], template_name: str, context: Mapping[str, Any], *, max_bytes: int) -> str:
    """The template's text with the values of `context`; `folders` are searched in order."""
    environment = _environment(folders)
    try:
        template = environment.get_template(template_name)
        return _bounded_text(template, context, max_bytes)
    except TemplateError:
        raise
    except jinja2.TemplateSyntaxError as error:
        place = f"{error.filename or template_name}:{error.lineno}"
        raise TemplateError("template.syntax", f"{template_name}: {error.message}", where=place) from error
    except jinja2.TemplateNotFound as error:
        raise TemplateError("template.unknown", f"{error.name}: there is no such template") from error
    except SecurityError as error:
        raise _fault("template.forbidden", template_name, error, folders) from error
    except jinja2.UndefinedError as error:
        raise _fault("template.undefined", template_name, error, folders) from error
    except (RecursionError, OverflowError, MemoryError) as error:
        raise _fault("template.size", template_name, error, folders) from error
    except Exception as error:  # an expression such as 1 + "a": the template's fault, whatever its type
        raise _fault("template.value", template_name, error, folders) from error


def _environment(folders: Sequence[Path]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader([str(folder) for folder in folders]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # each document has its own rules: the filters json, yaml and sh
    )
    environment.filters.update(json=json.dumps, yaml=_as_yaml, sh=_as_word)
    return environment


def _bounded_text(template: jinja2.Template, context: Mapping[str, Any], max_bytes: int) -> str:
    pieces: list[str] = []
    size = 0
    for piece in template.generate(**context):
        size += len(piece.encode())
        if size > max_bytes:
            raise TemplateError("template.size", f"{template.name}: makes more than {max_bytes} bytes")
        pieces.append(piece)
    return "".join(pieces)


def _as_yaml(value: Any) -> str:
    """A scalar as YAML: plain where that is safe, else in JSON's double quotes, which YAML reads alike."""
    if isinstance(value, str) and _PLAIN_YAML.match(value) and value.lower() not in _YAML_WORDS:
        return value
    return json.dumps(value)


def _as_word(value: Any) -> str:
    """One word of a POSIX shell."""
    return shlex.quote(str(value))


def _fault(kind: str, template_name: str, error: BaseException, folders: Sequence[Path]) -> TemplateError:
    said = str(error) or type(error).__name__
    return TemplateError(kind, f"{template_name}: {said}", where=_place(error, folders))


def _place(error: BaseException, folders: Sequence[Path]) -> str | None:
    """file:line of the innermost template in the traceback (Jinja maps its frames back to the templates)."""
    roots = tuple(f"{folder}/" for folder in folders)
    place, trace = None, error.__traceback__
    while trace is not None:
        if (file := trace.tb_frame.f_code.co_filename).startswith(roots):
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
