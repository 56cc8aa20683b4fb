from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest

from qeffbuild.errors import StoreError
from qeffbuild.store import Store, disk

KINDS = {
    errno.ENOSPC: "cache.full",
    errno.EDQUOT: "cache.full",
    errno.EROFS: "cache.readonly",
    errno.EIO: "cache.io",
}


@pytest.mark.parametrize("code", KINDS)
@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir", "chmod"])
def test_whatever_the_disk_says_is_one_line_and_nothing_becomes_visible(tmp_path, put, monkeypatch, code, call):
    store = Store(tmp_path / "cache")
    put(store, "earlier")

    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as broken:
        broken.setattr(os, call, refuse)
        with pytest.raises(StoreError) as refused:
            put(store, "export")
    assert (refused.value.kind, refused.value.exit_code) == (KINDS[code], 5)
    assert str(refused.value).count("\n") == 1  # the hint
    key = sha256(b"export").hexdigest()
    assert store.find(key) is None
    assert put(Store(tmp_path / "cache"), "export").record.key == key
    assert list((store.home / "staging").iterdir()) == []


def test_a_read_only_store_serves_hits_and_says_that_it_cannot_build():
    """As a user who may not write there; root may always write."""
    program = f"""
import fcntl, os, sqlite3, sys  # before the interpreter itself is out of reach
sys.path[:] = {sys.path!r}
from pathlib import Path
from qeffbuild.errors import StoreError
from qeffbuild.store import Record, Store
root = Path(sys.argv[1])
if os.geteuid() == 0:
    os.chown(sys.argv[2], 65534, 65534)
    os.setgid(65534); os.setuid(65534)
key = "ab" * 32
with (store := Store(root)).staging() as staging:
    (staging.out / "graph").write_text("x")
    store.publish(staging, Record(key=key, shallow="cd" * 32, name="export", preimage={{}}, files={{}}))
store.close()
for folder, _, _ in os.walk(root):
    os.chmod(folder, 0o500)
store = Store(root)
print(store.find(key) is not None, store.find("cd" * 32) is not None, store.find("ef" * 32))
try:
    store.lock("ef" * 32, "export").__enter__()
except StoreError as error:
    print(error.kind, error.exit_code)
for folder, _, _ in os.walk(root):
    os.chmod(folder, 0o700)
"""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-c", program, str(Path(folder) / "cache"), folder]
        ended = subprocess.run(argv, capture_output=True, text=True, cwd="/")

    assert ended.stdout.splitlines() == ["True True None", "cache.readonly 5"], ended.stderr


def test_a_copy_is_a_copy_where_blocks_cannot_be_shared(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(3 << 20))

    disk.copy_file(tmp_path / "a", tmp_path / "b")

    assert disk.hash_file(tmp_path / "a") == disk.hash_file(tmp_path / "b")


def test_what_is_read_only_can_be_removed(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("")
    (tmp_path / "a" / "link").symlink_to("/etc")
    (tmp_path / "a" / "b").chmod(0o555)

    disk.remove_tree(tmp_path / "a")
    disk.remove_tree(tmp_path / "a")

    assert list(tmp_path.iterdir()) == []
    assert Path("/etc").is_dir()
