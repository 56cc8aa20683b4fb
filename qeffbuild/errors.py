"""Every error that a user can meet.

QeffBuildError
├── SpecError          2    spec.* override.* sweep.*     the build asks for something unknown or impossible
├── PathError          2    path.*                        a name that leaves the folders it may name
├── ModelError         2    model.* onnx.*                the model's files are refused
├── TemplateError      2    template.*                    a document cannot be rendered
├── BackendError       2    backend.option backend.file   a backend refuses an option or a file
├── RunError           2    run.*                         prompts and requests
├── AbsentError        3    *.absent                      a tool, SDK, device or optional package is missing
├── StepError          4    step.*                        a step ran and failed
├── StoreError         5    cache.*                       disk full, read-only, foreign or damaged storage
├── VerificationError  6    verify.*                      bytes are not what their record says
├── LimitError         7    limit.*                       out of time or memory
└── Interrupted        130  interrupted                   Ctrl-C

Anything else that escapes is a bug of ours (exit code 1) and shows its traceback under --debug.
"""

from __future__ import annotations


class QeffBuildError(Exception):
    """A problem that we can explain.

    `kind` is dotted and stable (`spec.range`); scripts may compare it. `message` is one lower-case line that names
    the key and what was found; `where` is the file and line, or the override, in which it was said; `hint` is the
    next move.
    """

    exit_code = 1

    def __init__(self, kind: str, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = _one_line(message)
        self.where = where and _one_line(where)
        self.hint = hint and _one_line(hint)

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        line = f"error[{self.kind}]: {self.message}{place}"
        return f"{line}\nhint: {self.hint}" if self.hint else line

    def __reduce__(self) -> tuple[object, ...]:
        return (_revive, (type(self), self.kind, self.message, self.where, self.hint))

    def as_json(self) -> dict[str, object]:
        """The `error` object of a `--json` document."""
        return {"kind": self.kind, "message": self.message, "where": self.where, "hint": self.hint}


def _one_line(text: str) -> str:
    """`text` in one line that steers no terminal: what cannot be printed is written out."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def _revive(cls: type[QeffBuildError], kind: str, message: str, where: str | None, hint: str | None) -> QeffBuildError:
    return cls(kind, message, where=where, hint=hint)


class SpecError(QeffBuildError):
    exit_code = 2


class PathError(QeffBuildError):
    exit_code = 2


class ModelError(QeffBuildError):
    exit_code = 2


class TemplateError(QeffBuildError):
    exit_code = 2


class BackendError(QeffBuildError):
    exit_code = 2


class RunError(QeffBuildError):
    exit_code = 2


class AbsentError(QeffBuildError):
    exit_code = 3


class StepError(QeffBuildError):
    exit_code = 4


class StoreError(QeffBuildError):
    exit_code = 5


class VerificationError(QeffBuildError):
    exit_code = 6


class LimitError(QeffBuildError):
    exit_code = 7


class Interrupted(QeffBuildError):
    exit_code = 130
