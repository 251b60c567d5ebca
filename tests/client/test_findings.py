"""Contents that were asked for already."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from mlclip_client.errors import ServerUnavailable
from mlclip_client.output import cache as findings
from mlclip_client.output.cache import AnswerCache
from mlclip_client.output.rows import plain

FOUND = {"error_kind": None, "error": None, "answers": {"mld": {"scores": np.float32([0.1, 0.7])}}}
PLAIN = FOUND | {"answers": {"mld": {"scores": [0.1, 0.7]}}}


@pytest.fixture(params=["memory", "file"])
def known(request, tmp_path):
    with AnswerCache(tmp_path / "findings.sqlite" if request.param == "file" else None) as opened:
        yield opened


def never():
    raise AssertionError("asked again")


def test_the_same_content_is_asked_for_once(known):
    assert known.find("a", lambda: FOUND) is FOUND
    assert known.find("a", never) == PLAIN
    assert known.saved == 1


def test_many_at_once_ask_once_and_all_get_the_answer(known):
    asked, asking, go = [], threading.Event(), threading.Event()

    def ask():
        asked.append(1)
        asking.set()
        assert go.wait(60)
        return FOUND

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(known.find, "a", ask)
        assert asking.wait(60)
        others = [pool.submit(known.find, "a", ask) for _ in range(7)]
        go.set()
        assert first.result() is FOUND
        assert all(plain(other.result()) == PLAIN for other in others)
    assert (len(asked), known.saved) == (1, 7)


def test_who_waits_hears_that_the_file_cannot_be_written(tmp_path):
    asking, go = threading.Event(), threading.Event()

    def ask():
        asking.set()
        assert go.wait(60)
        return FOUND

    with AnswerCache(tmp_path / "f") as known, ThreadPoolExecutor(2) as pool:
        first = pool.submit(known.find, "a", ask)
        assert asking.wait(60)
        second = pool.submit(known.find, "a", never)
        while not known.saved:  # until the second one waits for the first
            threading.Event().wait(0.001)
        known._base.execute("DROP TABLE findings")
        go.set()
        for each in (first, second):
            with pytest.raises(OSError, match="f: no such table: findings"):
                each.result(60)


@pytest.mark.parametrize(("kind", "again"), [("decode", False), ("server", True), ("deadline", True)])
def test_only_what_lasts_is_kept(known, kind, again):
    failed = {"error_kind": kind, "error": "no", "answers": None}
    known.find("a", lambda: failed)
    assert (known.find("a", lambda: FOUND) is FOUND) is again


def test_an_error_goes_to_the_asker_and_the_next_one_asks_anew(known):
    def fail():
        raise ServerUnavailable("away")

    with pytest.raises(ServerUnavailable):
        known.find("a", fail)
    assert known.find("a", lambda: FOUND) is FOUND


def test_a_file_outlives_its_process_and_serves_two(tmp_path):
    with AnswerCache(tmp_path / "f") as one, AnswerCache(tmp_path / "f") as two:
        one.find("a", lambda: FOUND)
        assert two.find("a", never) == PLAIN
        two.find("b", lambda: FOUND)
        assert one.find("b", never) == PLAIN


def test_a_broken_file_is_begun_anew(tmp_path):
    (tmp_path / "f").write_bytes(b"SQLite format 3\0" + bytes(4000))
    with AnswerCache(tmp_path / "f") as known:
        known.find("a", lambda: FOUND)
        assert known.find("a", never) == PLAIN


def test_a_locked_file_is_left_as_it_is(tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout, **more: connect(file, timeout=0, **more))
    with AnswerCache(tmp_path / "f") as known:
        known.find("a", lambda: FOUND)
    with closing(connect(tmp_path / "f", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="f: database is locked"):
            AnswerCache(tmp_path / "f")
    with AnswerCache(tmp_path / "f") as known:
        assert known.find("a", never) == PLAIN


def test_memory_holds_the_latest_only(monkeypatch):
    monkeypatch.setattr(findings, "MOST_IN_MEMORY", 3)
    with AnswerCache() as known:
        for key in "abcd":
            known.find(key, lambda: FOUND)
        assert known.find("d", never) == PLAIN
        assert known.find("a", lambda: FOUND) is FOUND
