"""Answers for content that was asked before."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest
from mlclip_client.errors import ServerUnavailable
from mlclip_client.output import cache as module
from mlclip_client.output.cache import AnswerCache

FOUND = {"error_kind": None, "error": None, "answers": {"mld": {"scores": np.float32([0.1, 0.7])}}}
PLAIN = FOUND | {"answers": {"mld": {"scores": [0.1, 0.7]}}}


@pytest.fixture(params=["memory", "file"])
def cache(request, tmp_path):
    with AnswerCache(tmp_path / "findings.sqlite" if request.param == "file" else None) as opened:
        yield opened


def never():
    raise AssertionError("asked again")


def test_the_same_content_is_asked_for_once(cache):
    assert cache.find("a", lambda: FOUND) is FOUND
    assert cache.find("a", never) == PLAIN
    assert cache.saved == 1


@contextmanager
def callers(cache):
    """Give eight callers of a cache at once, of which the first is asking, and the event that lets it go on."""
    asking, go = threading.Event(), threading.Event()

    def ask():
        asking.set()
        assert go.wait(60)
        return FOUND

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.find, "a", ask)
        assert asking.wait(60)
        others = [pool.submit(cache.find, "a", never) for _ in range(7)]
        while cache.saved < 7:
            threading.Event().wait(0.001)
        yield [first, *others], go


def test_of_many_callers_at_once_one_asks_and_all_get_the_answer(cache):
    with callers(cache) as (asked, go):
        go.set()
        assert all(each.result(60) is FOUND for each in asked)
    assert cache.saved == 7


def test_callers_that_wait_get_the_error_if_the_file_cannot_be_written(tmp_path):
    with AnswerCache(tmp_path / "f") as cache, callers(cache) as (asked, go):
        cache._database.execute("DROP TABLE findings")
        go.set()
        for each in asked:
            with pytest.raises(OSError, match="f: no such table: findings"):
                each.result(60)


@pytest.mark.parametrize(("kind", "again"), [("decode", False), ("server", True), ("deadline", True)])
def test_only_what_lasts_is_kept(cache, kind, again):
    failed = {"error_kind": kind, "error": "no", "answers": None}
    cache.find("a", lambda: failed)
    assert (cache.find("a", lambda: FOUND) is FOUND) is again


def test_an_error_goes_to_the_asker_and_the_next_one_asks_again(cache):
    def fail():
        raise ServerUnavailable("away")

    with pytest.raises(ServerUnavailable):
        cache.find("a", fail)
    assert cache.find("a", lambda: FOUND) is FOUND


def test_a_file_outlives_its_process_and_serves_two(tmp_path):
    with AnswerCache(tmp_path / "f") as one, AnswerCache(tmp_path / "f") as two:
        one.find("a", lambda: FOUND)
        assert two.find("a", never) == PLAIN
        two.find("b", lambda: FOUND)
        assert one.find("b", never) == PLAIN


def test_a_corrupt_file_is_replaced(tmp_path):
    (tmp_path / "f").write_bytes(b"SQLite format 3\0" + bytes(4000))
    with AnswerCache(tmp_path / "f") as cache:
        cache.find("a", lambda: FOUND)
        assert cache.find("a", never) == PLAIN


def test_a_locked_file_is_left_as_it_is(tmp_path, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout, **more: connect(file, timeout=0, **more))
    with AnswerCache(tmp_path / "f") as cache:
        cache.find("a", lambda: FOUND)
    with closing(connect(tmp_path / "f", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OSError, match="f: database is locked"):
            AnswerCache(tmp_path / "f")
    with AnswerCache(tmp_path / "f") as cache:
        assert cache.find("a", never) == PLAIN


def test_memory_holds_the_latest_only(monkeypatch):
    monkeypatch.setattr(module, "MOST_IN_MEMORY", 3)
    with AnswerCache() as cache:
        for key in "abcd":
            cache.find(key, lambda: FOUND)
        assert cache.find("d", never) == PLAIN
        assert cache.find("a", lambda: FOUND) is FOUND
