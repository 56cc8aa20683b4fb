from __future__ import annotations

import os
import shutil
import stat
import time
from hashlib import sha256

import pytest

from qeffbuild.errors import StepError, StoreError
from qeffbuild.store import File, Record, Store, verify


def digest(word: str) -> str:
    return sha256(word.encode()).hexdigest()


def bend(path, at: int = 0) -> None:
    """Flip one bit and keep the time stamp, as rot does."""
    status = os.stat(path)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_published_entry_is_found_with_all_that_was_recorded(store, put):
    published = put(store, graph="the graph", notes__io="the signature")

    found = store.find(digest("export"))

    assert found == published
    assert found.record.files["graph"] == File(size=9, sha256=digest("the graph"))
    assert (found.out / "notes" / "io").read_text() == "the signature"


def test_nothing_is_found_and_nothing_made_where_there_is_no_store(tmp_path):
    store = Store(tmp_path / "cache")

    assert store.find(digest("export")) is None
    assert not (tmp_path / "cache").exists()


def test_an_entry_is_read_only(store, put):
    entry = put(store, graph="the graph")

    assert stat.S_IMODE((entry.out / "graph").stat().st_mode) == 0o444
    assert stat.S_IMODE(entry.out.stat().st_mode) == 0o555


def test_a_store_is_private_whatever_the_umask(tmp_path, put):
    before = os.umask(0)
    try:
        put(Store(tmp_path / "cache"))
    finally:
        os.umask(before)

    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache", tmp_path / "cache" / "v1")} == {0o700}


def test_an_entry_is_found_by_its_shallow_key_and_by_a_later_alias(store, put):
    entry = put(store)
    store.alias(digest("later"), digest("export"))

    assert store.find(digest("shallow export")) == entry
    assert store.find(digest("later")) == entry


def test_a_damaged_alias_is_a_miss(store, put, said):
    put(store)
    bend(store.alias_path(digest("shallow export")), at=90)

    assert store.find(digest("shallow export")) is None
    assert said == [f"cache: 1 damaged alias ignored ({digest('shallow export')[:12]})"]


def test_an_alias_of_another_key_is_a_miss(store, put):
    put(store)
    place = store.alias_path(digest("other"))
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(store.alias_path(digest("shallow export")), place)

    assert store.find(digest("other")) is None


def remove(path):
    path.parent.chmod(0o755)
    path.unlink()


def plant(path):
    path.parent.chmod(0o755)
    path.with_name("planted").write_text("")


def link(path):
    path.parent.chmod(0o755)
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def cut(path):
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (bend, "the bytes of graph changed"),
        (cut, "graph has 8 bytes instead of 9"),
        (remove, "graph is missing"),
        (plant, "planted is unknown"),
        (link, "graph is not a file"),
    ],
)
def test_a_damaged_entry_is_dropped_with_one_line_and_can_be_built_again(store, put, said, harm, why):
    entry = put(store, graph="the graph")
    harm(entry.out / "graph")

    assert store.find(digest("export")) is None
    assert said == [f"cache: 1 damaged entry dropped ({digest('export')[:12]}: {why})"]
    assert put(store, graph="the graph").record.files["graph"].sha256 == digest("the graph")
    assert store.find(digest("export")) is not None


def test_a_flipped_bit_anywhere_in_a_record_is_noticed(store, put):
    place = put(store).path / "record.json"
    good = place.read_bytes()
    place.chmod(0o644)
    served = []
    for at in range(len(good)):
        place.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        served += [at] if store.peek(digest("export")) else []

    assert served == []


def test_a_record_cut_at_any_length_is_noticed(store, put):
    place = put(store).path / "record.json"
    good = place.read_bytes()
    place.chmod(0o644)
    served = []
    for length in range(len(good)):
        place.write_bytes(good[:length])
        served += [length] if store.peek(digest("export")) else []

    assert served == []


def test_the_entry_of_another_key_is_not_served(store, put):
    put(store, "export")
    entry = put(store, "compile")
    other = store.entry_path(digest("swapped"))
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(entry.path, other)

    assert store.find(digest("swapped")) is None


def test_an_entry_without_a_record_is_dropped(store, put, said):
    (put(store).path / "record.json").unlink()

    assert store.find(digest("export")) is None
    assert said == [f"cache: 1 damaged entry dropped ({digest('export')[:12]}: its record is missing)"]


def test_a_good_entry_is_not_replaced_by_a_second_builder(store, put):
    first = put(store, graph="first")

    second = put(store, graph="second")

    assert second == first
    assert (second.out / "graph").read_text() == "first"


def test_a_large_file_is_hashed_again_when_its_stamp_changed_and_otherwise_on_request(tmp_path, put, monkeypatch):
    monkeypatch.setattr(verify, "ALWAYS_HASHED", 4)
    monkeypatch.setattr("qeffbuild.store.publish.ALWAYS_HASHED", 4)
    store = Store(tmp_path / "cache")
    entry = put(store, graph="the graph")
    read: list[str] = []
    monkeypatch.setattr(verify.disk, "hash_file", lambda path: read.append(path.name) or digest(path.read_text()))

    assert store.find(digest("export")) is not None
    assert read == []
    assert Store(tmp_path / "cache", verify="always").find(digest("export")) is not None
    assert read == ["graph"]
    bend(entry.out / "graph")
    assert store.find(digest("export")) is None
    assert read == ["graph"] * 3  # once to find the damage, once more before it is moved away


def test_the_index_may_be_deleted_or_damaged_at_any_time(tmp_path, put):
    store = Store(tmp_path / "cache")
    put(store)
    store.close()
    index = tmp_path / "cache" / "v1" / "index.sqlite"
    for harm in (index.unlink, lambda: index.write_bytes(b"no database"), lambda: index.write_bytes(b"\0" * 8192)):
        harm()
        store = Store(tmp_path / "cache")

        assert store.find(digest("export")) is not None
        assert store.nearest("export", {"params": {}}).key == digest("export")
        store.close()


def test_the_nearest_earlier_result_has_the_fewest_differences(store, put):
    for word in ("one", "two", "three"):
        put(store, word)

    assert store.nearest("export", {"params": {"word": "two"}}).key == digest("two")
    assert store.nearest("compile", {"params": {"word": "two"}}) is None


def test_a_step_that_wrote_nothing_is_refused(store):
    with pytest.raises(StepError) as refused, store.staging() as staging:
        store.publish(staging, Record(key=digest("a"), shallow=digest("b"), name="export", preimage={}, files={}))

    assert refused.value.kind == "step.output"
    assert store.find(digest("a")) is None


@pytest.mark.parametrize("make", ["symlink", "hardlink", "fifo"])
def test_what_a_store_cannot_keep_is_refused(store, tmp_path, make):
    outside = tmp_path / "outside"
    outside.write_text("x")
    with store.staging() as staging:
        target = staging.out / "odd"
        ways = {"symlink": target.symlink_to, "hardlink": target.hardlink_to, "fifo": lambda _: os.mkfifo(target)}
        ways[make](outside)
        with pytest.raises(StepError) as refused:
            store.publish(staging, Record(key=digest("a"), shallow=digest("b"), name="export", preimage={}, files={}))

    assert refused.value.kind == "step.output"


def test_staging_is_gone_after_a_failure(store):
    def fail() -> None:
        with store.staging() as staging:
            (staging.out / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert list((store.home / "staging").iterdir()) == []


def test_staging_of_a_dead_process_is_swept_and_that_of_a_living_one_is_not(store, tmp_path):
    with store.staging() as living:
        dead = store.home / "staging" / "dead"
        (dead / "entry" / "out").mkdir(parents=True)
        (store.home / "staging" / "dead.lock").write_text("")
        (store.home / "staging" / "older" / "cwd").mkdir(parents=True)

        with Store(store.root).staging():
            assert living.out.is_dir()
            assert not dead.exists()
            assert not (store.home / "staging" / "older").exists()


def test_a_file_is_digested_once_while_its_stamp_stays(store, put, tmp_path, monkeypatch):
    put(store)
    source = tmp_path / "weights"
    source.write_text("weights")
    long_ago = time.time_ns() - 10**13
    os.utime(source, ns=(long_ago, long_ago))
    monkeypatch.setattr("qeffbuild.store.index.RACY_NS", -(10**12))  # the change time is now: take it as settled

    assert store.digest_file(source) == digest("weights")
    monkeypatch.setattr("qeffbuild.store.disk.hash_file", lambda path: pytest.fail("read again"))
    assert store.digest_file(source) == digest("weights")


def test_a_file_changed_just_before_it_was_digested_is_not_trusted(store, put, tmp_path):
    put(store)
    source = tmp_path / "weights"
    source.write_text("weights")
    store.digest_file(source)
    status = os.stat(source)

    assert store.index.digest_of(status) is None


def test_a_folder_is_digested_by_the_names_and_bytes_of_the_files_named(store, tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text("{}")
        (tmp_path / place / "README").write_text(place)

    here, there = (store.digest_folder(tmp_path / place, ["config.json"]) for place in ("here", "there"))

    assert here == there
    assert here != store.digest_folder(tmp_path / "here", ["config.json", "README"])


def test_a_store_that_others_may_write_is_refused(tmp_path, put):
    put(Store(tmp_path / "cache"))
    (tmp_path / "cache").chmod(0o777)

    with pytest.raises(StoreError) as refused:
        Store(tmp_path / "cache").find(digest("export"))

    assert (refused.value.kind, refused.value.exit_code) == ("cache.unsafe", 5)


def test_a_store_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "v1").mkdir(mode=0o700)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)

    with pytest.raises(StoreError) as refused:
        Store(tmp_path).find(digest("export"))

    assert refused.value.kind == "cache.unsafe"


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")

    with pytest.raises(StoreError) as refused:
        Store(tmp_path / "cache").find(digest("export"))

    assert refused.value.kind == "cache.unsafe"


def test_a_moved_store_still_hits(tmp_path, put):
    store = Store(tmp_path / "cache")
    put(store)
    store.close()
    shutil.copytree(tmp_path / "cache", tmp_path / "copied")
    (tmp_path / "cache").rename(tmp_path / "moved")

    assert Store(tmp_path / "moved").find(digest("export")) is not None
    assert Store(tmp_path / "copied").find(digest("export")) is not None
