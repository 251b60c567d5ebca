"""Rows and the files that hold them."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlclip_client.errors import BadImage
from mlclip_client.output import writers
from mlclip_client.output.rows import HeadClasses, RowOptions, failure, plain, read_classes, schema, success, to_row
from mlclip_client.output.writers import check_target, open_writer
from mlclip_client.pixels import PixelSpec
from mlclip_client.values import Answer, HeadInfo, Prediction

DIGEST = "e3b0c442" * 8

HEAD = HeadInfo("mld", ("a", "b", "c"), "hash", (0.5,) * 3, "tiny", PixelSpec(8), 2, "4", "0.1.0")
ALL = RowOptions(top_k=2, scores=True, embeddings=True)


def answered(source="x.png", scores=(0.1, 0.9, 0.7), options=ALL):
    values = np.array(scores, np.float32)
    answer = Answer("mld", HEAD.labels, values, values >= 0.5, "hash", "mld_bytes", "4")
    prediction = Prediction(None, {"mld": answer}, np.array([0.6, 0.8], np.float32))
    return to_row(source, success(prediction, options), sha256=DIGEST, size=40, seconds=0.25)


def failed(source="y.png", error="the file is empty"):
    return to_row(source, failure(BadImage(error), ALL), sha256=DIGEST, size=0, seconds=0.125)


def write(path, rows):
    with open_writer(str(path), schema([HEAD], ALL)) as write_row:
        for row in rows:
            write_row(row)


WANTED = {
    "path": "x.png",
    "sha256": DIGEST,
    "bytes": 40,
    "error_kind": None,
    "error": None,
    "answers": {
        "mld": {
            "labels": ["b", "c"],
            "scores": [0.9, 0.7],
            "top_labels": ["b", "c"],
            "top_scores": [0.9, 0.7],
            "all_scores": [0.1, 0.9, 0.7],
            "labels_sha256": "hash",
            "model": "mld_bytes",
            "version": "4",
        }
    },
    "seconds": 0.25,
    "embedding": [0.6, 0.8],
}
WANTED_FAILURE = {
    "path": "y.png",
    "sha256": DIGEST,
    "bytes": 0,
    "error_kind": "decode",
    "error": "the file is empty",
    "answers": None,
    "seconds": 0.125,
    "embedding": None,
}


def test_jsonl_row_holds_everything_and_short_exact_numbers(tmp_path):
    write(tmp_path / "x.jsonl", [answered(), failed()])
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows == [WANTED, WANTED_FAILURE]


def test_parquet_holds_the_same_rows(tmp_path):
    write(tmp_path / "x.parquet", [answered(), failed()])
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.schema.equals(schema([HEAD], ALL))
    assert read_classes(table.schema) == {"mld": HeadClasses(["a", "b", "c"], [0.5] * 3, "hash", "4")}
    first, second = table.to_pylist()
    assert plain(first) == WANTED, "what is read back gives the same JSON"
    assert np.isnan(second.pop("embedding")).tolist() == [True, True], "readers refuse null ones of a fixed size"
    assert second == {name: value for name, value in WANTED_FAILURE.items() if name != "embedding"}


def test_columns_come_on_request():
    assert "embedding" not in schema([HEAD], RowOptions()).names
    row = answered(options=RowOptions(top_k=1))
    assert set(row) == {"path", "sha256", "bytes", "error_kind", "error", "answers", "seconds"}
    assert row["answers"]["mld"]["top_labels"] == ["b"]
    assert "all_scores" not in row["answers"]["mld"]


def test_nothing_selected_is_an_empty_list_not_null(tmp_path):
    write(tmp_path / "x.parquet", [answered(scores=(0.1, 0.2, 0.2))])
    answer = pq.read_table(tmp_path / "x.parquet").to_pylist()[0]["answers"]["mld"]
    assert (answer["labels"], answer["scores"], answer["top_labels"]) == ([], [], ["b", "c"])


@pytest.mark.parametrize(("group_bytes", "least", "most"), [(300_000, 1024, 4499), (20_000, 1, 499)])
def test_many_rows_become_row_groups_of_some_size_in_order(tmp_path, monkeypatch, group_bytes, least, most):
    monkeypatch.setattr(writers, "ROW_GROUP_BYTES", group_bytes)
    write(tmp_path / "x.parquet", (answered(str(number)) for number in range(4500)))
    file = pq.ParquetFile(tmp_path / "x.parquet")
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    assert sum(sizes) == 4500 and min(sizes[:-1]) >= least and max(sizes[1:]) <= most
    assert file.read(["path"])["path"].to_pylist() == [str(number) for number in range(4500)]


def test_no_rows_make_a_readable_file(tmp_path):
    for name in ("x.parquet", "x.jsonl"):
        write(tmp_path / name, [])
    assert pq.read_table(tmp_path / "x.parquet").num_rows == 0
    assert (tmp_path / "x.jsonl").read_text() == ""


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
def test_file_appears_whole_or_not_at_all(tmp_path, name):
    path = tmp_path / name
    path.write_text("older result")
    with pytest.raises(RuntimeError), open_writer(str(path), schema([HEAD], ALL)) as write_row:
        for _ in range(2000):
            write_row(answered())
        assert path.read_text() == "older result", "nothing is replaced before the end"
        raise RuntimeError
    assert path.read_text() == "older result"
    assert os.listdir(tmp_path) == [name]
    with path.open() as reader:
        write(path, [answered()])
        assert reader.read() == "older result", "a process that has opened the older file can still read it"
    assert os.listdir(tmp_path) == [name]
    assert path.read_bytes() != b"older result"


def test_names_that_are_not_utf8_can_be_written(tmp_path):
    source = os.fsdecode(b"caf\xe9 \xe2\x82\xac\n.png")
    for name in ("x.parquet", "x.jsonl"):
        write(tmp_path / name, [answered(source), failed(source, source)])
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text("utf-8").splitlines()]
    assert [row["path"] for row in rows] == ["caf\\xe9 \u20ac\n.png"] * 2
    assert pq.read_table(tmp_path / "x.parquet")["path"].to_pylist() == [row["path"] for row in rows]


def test_ties_are_in_class_order():
    answer = answered(scores=(0.7, 0.7, 0.7))["answers"]["mld"]
    assert (answer["labels"], answer["top_labels"]) == (["a", "b", "c"], ["a", "b"])
    assert answered(scores=(0.7, 0.9, 0.7))["answers"]["mld"]["labels"] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.csv", "write to a .parquet or .jsonl file"),
        ("x", "write to a .parquet or .jsonl file"),
        ("no/such/x.parquet", "there is no folder"),
        ("folder.parquet", "this is a folder"),
    ],
)
def test_impossible_targets_are_refused_before_any_work(tmp_path, name, reason):
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match=reason):
        check_target(str(tmp_path / name))
    check_target(str(tmp_path / "fine.parquet"))
    check_target("-")
