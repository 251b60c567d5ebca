"""The store of all four studies: what counts as a line, and what may not be mixed or overwritten."""

import json

import pytest
from mlclip_bench.heads.results import Results as HeadResults
from mlclip_bench.kit.store import Store
from mlclip_bench.load.sweep import Results as LoadResults
from mlclip_bench.peers.derive import Results as PeerResults
from mlclip_bench.scaling.results import Results as ScalingResults

from mlclip.errors import ResultsError


@pytest.mark.parametrize(
    ("kind", "lines", "kept"),
    [
        (HeadResults, [{"variant": "mld", "shots": None, "seed": s, "n": n} for n, s in enumerate((1, 2, 1))], [2, 1]),
        (LoadResults, [{"mode": "open", "level": x, "n": n} for n, x in enumerate((5.0, 7.0, 5.0))], [2, 1]),
    ],
)
def test_the_last_line_of_a_key_counts(tmp_path, kind, lines, kept):
    results = kind(tmp_path / "new")
    assert results.lines() == results.latest() == []
    for line in lines:
        assert results.append(line) == line
    assert results.lines() == lines
    assert [line["n"] for line in results.latest()] == kept


def test_half_a_line_of_a_killed_writer_is_cut_off(tmp_path):
    store = Store(tmp_path)
    store.append({"kind": "time", "n": 1})
    with store.path.open("a") as file:
        file.write('{"kind": "ti')
    assert [line["n"] for line in store.lines()] == [1]
    store.append({"kind": "time", "n": 2})
    assert [line["n"] for line in store.lines()] == [1, 2]
    assert len([json.loads(row) for row in store.path.read_text().splitlines()]) == 2


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (HeadResults, "results.jsonl"),
        (LoadResults, "load.jsonl"),
        (PeerResults, "peers.jsonl"),
        (ScalingResults, "results.jsonl"),
    ],
)
@pytest.mark.parametrize("text", ["not json\n", '{"mode": "closed", "peer": 1}\n'])
def test_a_line_of_something_else_is_named(tmp_path, kind, file, text):
    (tmp_path / file).write_text(text)
    with pytest.raises(ResultsError, match=rf"{file}:1: not a result"):
        kind(tmp_path).lines()


def test_measured_lines_are_neither_overwritten_nor_mixed(tmp_path):
    store, asked = Store(tmp_path), {"images": 5, "heads": ("mld",)}
    store.check_new("--resume continues it")
    store.append({"kind": "setting", "asked": asked})
    store.check_same(asked, [store.setting()["asked"]])
    with pytest.raises(ResultsError, match="holds a measurement: --resume continues it, --out names another folder"):
        store.check_new("--resume continues it")
    with pytest.raises(ResultsError, match="measured with another heads, images: name another folder with --out"):
        store.check_same({"images": 6, "heads": ()}, [store.setting()["asked"]])


def test_a_run_without_its_setting_is_refused(tmp_path):
    with pytest.raises(ResultsError, match="holds no run: measure first"):
        Store(tmp_path / "nowhere").setting()
