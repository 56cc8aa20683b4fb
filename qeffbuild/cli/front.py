"""One command line from its words to its exit code; whatever goes wrong on the way ends in at most three lines."""

from __future__ import annotations

import os
import sys

from qeffbuild.errors import Interrupted, QeffBuildError

TYPE_CHECKING = False  # typing's own would load typing
if TYPE_CHECKING:
    from collections.abc import Callable

INTERNAL = 1


def main(words: list[str] | None = None) -> int:
    """The exit code of the command line `words`."""
    said = list(sys.argv[1:] if words is None else words)
    return guarded(lambda: _answer(said), as_json="--json" in said, debug="--debug" in said)


def guarded(answer: Callable[[], int], *, as_json: bool = False, debug: bool = False) -> int:
    """The exit code of `answer`, or that of the error in which it ends, which is told."""
    try:
        code = answer()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        return _reader_left()
    except KeyboardInterrupt:
        return _failed(Interrupted("interrupted", "stopped; finished steps are kept"), as_json=as_json, debug=False)
    except QeffBuildError as error:
        return _failed(error, as_json=as_json, debug=debug)
    except Exception as error:
        return _bug(error, as_json=as_json, debug=debug)


def _answer(words: list[str]) -> int:
    """The shortest way that leads to the answer: what is not needed for it is not even imported."""
    if words[:1] == ["--complete"]:
        from qeffbuild.cli.complete import complete

        return complete(words[1:])
    if words == ["--version"]:
        return _tell_version()
    from qeffbuild.cli.recall import recall

    code = recall(words)
    if code is not None:
        return code
    _end_on_signals()
    from qeffbuild.cli.words import parse

    command = parse(words)
    if command.has("--version"):
        return _tell_version()
    if command.has("--help"):
        from qeffbuild.cli.help import help_of

        print(help_of(command.calls[0].verb if command.calls else None))
        return 0
    if command.asks_hydra:
        from qeffbuild.cli.hydra import answer

        return answer(command)
    from qeffbuild.cli.obey import obey

    return obey(command, words)


def _tell_version() -> int:
    from qeffbuild import __version__

    print(f"qeffbuild {__version__}")
    return 0


def _end_on_signals() -> None:
    """A polite end, whoever asks for it: SIGTERM and SIGHUP stop a build as Ctrl-C does."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is signal.SIG_DFL:
                signal.signal(name, signal.default_int_handler)


def _failed(error: QeffBuildError, *, as_json: bool, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    try:
        if as_json:
            import json

            print(json.dumps({"schema": 1, "error": error.as_json()}, ensure_ascii=False), flush=True)
        print(error, file=sys.stderr, flush=True)
    except BrokenPipeError:
        _reader_left()
    return error.exit_code


def _bug(error: Exception, *, as_json: bool, debug: bool) -> int:
    """One line and the path of a report: the traceback is for whoever mends it."""
    import tempfile
    import traceback

    told = "".join(traceback.format_exception(error))
    last = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="qeffbuild-report-", suffix=".txt", delete=False) as report:
            report.write(told)
        hint = f"this is a bug of ours; the report is {report.name}"
    except OSError:
        hint = "this is a bug of ours; --debug shows the traceback"
    return _failed(
        _Internal("internal", last, hint=hint).with_traceback(error.__traceback__), as_json=as_json, debug=debug
    )


class _Internal(QeffBuildError):
    exit_code = INTERNAL


def _reader_left() -> int:
    """`| head` has seen enough: end quietly. Python would complain once more when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
