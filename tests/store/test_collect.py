from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from hashlib import sha256

import pytest

from qeffbuild.store import Store, collect


def digest(word: str) -> str:
    return sha256(word.encode()).hexdigest()


@pytest.fixture
def filled(tmp_path, put):
    """Three entries of 1,000 bytes, used one, two and three hours ago, in a store that no process uses."""
    store = Store(tmp_path / "cache")
    for hours, word in ((1, "package"), (2, "export"), (3, "fetch")):
        entry = put(store, word, name=word, inputs={"package": ("export",)}.get(word, ()), data="x" * 1000)
        used = time.time() - hours * 3600
        os.utime(entry.path / "record.json", (used, used))
    yield store
    store.close()


def held(store: Store) -> set[str]:
    return {item.name for item in collect.ls(store)}


def test_entries_are_listed_the_longest_unused_first(filled):
    assert [(item.name, item.size) for item in collect.ls(filled)] == [
        ("fetch", 1000),
        ("export", 1000),
        ("package", 1000),
    ]


def test_disk_use_is_told_by_part(filled):
    assert collect.du(filled)["entry"] > 3000


def test_without_limits_only_rubbish_goes(filled):
    (filled.home / "quarantine" / "old").mkdir()
    (filled.home / "lock" / digest("free")).write_text("")
    orphan = filled.alias_path(digest("orphan"))
    filled.alias(digest("orphan"), digest("gone"))

    collected = collect.gc(filled)

    assert collected == collect.Collected(removed=(), freed=0, kept=3)
    assert not list((filled.home / "quarantine").iterdir())
    assert not (filled.home / "lock" / digest("free")).exists()
    assert not orphan.exists()


def test_the_longest_unused_go_until_the_rest_fits(filled):
    collected = collect.gc(filled, max_size=1500)

    assert collected.removed == (digest("fetch"), digest("export"))
    assert (collected.freed, held(filled)) == (2000, {"package"})
    assert filled.find(digest("fetch"), touch=False) is None


def test_what_was_not_used_for_long_goes(filled):
    collect.gc(filled, older_s=2.5 * 3600)

    assert held(filled) == {"package", "export"}


def test_a_dry_run_removes_nothing(filled):
    collected = collect.gc(filled, max_size=0, dry_run=True)

    assert len(collected.removed) == 3
    assert held(filled) == {"package", "export", "fetch"}


def test_a_root_keeps_what_it_was_made_from(filled):
    collect.pin(filled, "mine", digest("package"))

    collect.gc(filled, max_size=0, keep_roots=True)

    assert held(filled) == {"package", "export"}


def test_an_alias_that_someone_writes_just_now_is_left_to_him(filled):
    place = filled.alias_path(digest("new"))
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f"{place.name}.0a1b2c3d")
    unfinished.touch()

    collect.gc(filled)
    assert unfinished.exists()

    os.utime(unfinished, (0, 0))  # and its writer died long ago
    collect.gc(filled)
    assert not unfinished.exists()


def test_an_alias_can_be_a_root(filled):
    collect.pin(filled, "mine", digest("shallow package"))

    collect.gc(filled, max_size=0, keep_roots=True)

    assert held(filled) == {"package", "export"}


def test_what_a_running_process_has_found_stays(filled):
    user = Store(filled.root)
    assert user.find(digest("fetch")) is not None

    collect.gc(filled, max_size=0)
    assert held(filled) == {"fetch"}

    user.close()
    collect.gc(filled, max_size=0)
    assert held(filled) == set()


def test_a_process_that_was_killed_keeps_nothing(filled):
    program = (
        "import sys, os, pathlib; from qeffbuild.store import Store; "
        "Store(pathlib.Path(sys.argv[1])).find(sys.argv[2]) or sys.exit(3); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, filled.root, digest("fetch")], env=_environment())
    assert killed.returncode == -9

    collect.gc(filled, max_size=0)

    assert held(filled) == set()


def test_an_entry_that_is_being_built_stays(filled):
    with Store(filled.root).lock(digest("fetch"), "fetch"):
        collect.gc(filled, max_size=0)

    assert held(filled) == {"fetch"}


def test_who_looks_while_an_entry_is_taken_away_waits_and_finds_nothing(filled, monkeypatch):
    user, found, rename = Store(filled.root), [], os.rename
    looking = threading.Thread(target=lambda: found.append(user.find(digest("fetch"))))

    def look_first(source, target):
        if source.parent.parent.name == "entry":
            looking.start()
            looking.join(0.1)
            assert found == []
        rename(source, target)

    monkeypatch.setattr(collect.os, "rename", look_first)
    collected = collect.gc(filled, older_s=2.5 * 3600)
    looking.join()

    assert (collected.removed, found) == ((digest("fetch"),), [None])
    user.close()


def test_verification_reports_damage_and_leaves_it(filled):
    file = filled.entry_path(digest("export")) / "out" / "data"
    file.chmod(0o644)
    file.write_text("y" * 1000)
    (filled.entry_path(digest("fetch")) / "record.json").chmod(0o644)
    (filled.entry_path(digest("fetch")) / "record.json").write_text("{}")

    errors = collect.verify_all(filled)

    assert {(error.kind, error.exit_code) for error in errors} == {("verify.bytes", 6), ("verify.record", 6)}
    assert file.exists()


def test_an_empty_store_can_be_collected(tmp_path):
    assert collect.gc(Store(tmp_path / "cache"), max_size=0).kept == 0
    assert not (tmp_path / "cache").exists()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
