"""JSON lines on disk: what is written comes back, and an unfinished line costs nothing else."""

import fcntl

import pytest

from mlclip.errors import ResultsError
from mlclip.json_lines import append_line, different, read_lines


def read(path):
    return read_lines(path, "thing", lambda line: line["name"])


def test_lines_come_back_whatever_their_words_hold(tmp_path):
    path, lines = tmp_path / "new" / "lines.jsonl", [{"name": "a\u2028b"}, {"name": "c\nd"}, {"name": "\u00e9"}]
    assert read(path) == []
    for line in lines:
        append_line(path, line)
    assert read(path) == lines


def test_half_a_line_does_not_count_and_gives_way_to_the_next(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, {"name": 1})
    with path.open("a") as file:
        file.write('{"name": "\u00e9')
    path.write_bytes(path.read_bytes()[:-1])  # in the middle of a letter
    assert read(path) == [{"name": 1}]
    append_line(path, {"name": 3})
    assert read(path) == [{"name": 1}, {"name": 3}]


def test_half_a_line_that_another_process_is_writing_is_awaited(tmp_path, monkeypatch):
    path, lock = tmp_path / "lines.jsonl", fcntl.flock
    path.write_text('{"name": ')

    def finish(file, operation):
        with path.open("a") as other:
            other.write("2}\n")
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", finish)
    append_line(path, {"name": 3})
    assert read(path) == [{"name": 2}, {"name": 3}]


def test_a_broken_line_is_named_with_its_place(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"name": 1}\n{"other": 2}\n')
    with pytest.raises(ResultsError, match=r"lines.jsonl:2: not a thing .*delete the line"):
        read(path)


def test_values_are_compared_as_json_stores_them():
    found = {"seed": 0, "space": {"x": [1, 2]}, "old": None}
    assert different(found, {"seed": 0, "space": {"x": (1, 2)}}) == []
    assert different(found, {"seed": 1, "space": {"x": (1,)}, "new": 3}) == ["seed", "space", "new"]
