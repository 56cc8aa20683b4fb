"""The public functions: the only place that joins the rooms.

spec = compose(["model=gpt2", "quantization=int8"])
print(plan(spec).as_json())
package = build(spec).package
"""

from qeffbuild.api.building import Together, build, build_together
from qeffbuild.api.built import Built
from qeffbuild.api.checking import check, doctor, not_reproducible, verify
from qeffbuild.api.explaining import diff, why
from qeffbuild.api.handing_out import emit, hand_out
from qeffbuild.api.locking import Lock, held_to, read_lock, words_of, write_lock
from qeffbuild.api.planning import Outlook, Planned, UpToDate, plan, plan_together
from qeffbuild.api.specs import admit, check_out, compose, known_task, open_store
from qeffbuild.api.using import (
    CONTINUING,
    asked_of,
    bench,
    check_asked,
    check_continues,
    eval_file_of,
    evaluate,
    open_engine,
    open_reader,
    prompts_of,
    require_devices,
    run,
    task_of,
)
from qeffbuild.report.keeping import cache_du, cache_gc, cache_ls, cache_verify

__all__ = [
    "CONTINUING",
    "Built",
    "Lock",
    "Outlook",
    "Planned",
    "Together",
    "UpToDate",
    "admit",
    "asked_of",
    "bench",
    "build",
    "build_together",
    "cache_du",
    "cache_gc",
    "cache_ls",
    "cache_verify",
    "check",
    "check_asked",
    "check_continues",
    "check_out",
    "compose",
    "diff",
    "doctor",
    "emit",
    "eval_file_of",
    "evaluate",
    "hand_out",
    "held_to",
    "known_task",
    "not_reproducible",
    "open_engine",
    "open_reader",
    "open_store",
    "plan",
    "plan_together",
    "prompts_of",
    "read_lock",
    "require_devices",
    "run",
    "task_of",
    "verify",
    "why",
    "words_of",
    "write_lock",
]
