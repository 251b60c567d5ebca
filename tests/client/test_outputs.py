"""Rows and the files that hold them."""

import contextlib
import io
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlclip_client.errors import BadImage, ClientError, ServerUnavailable
from mlclip_client.files import replacing
from mlclip_client.options import RowOptions
from mlclip_client.output import writers
from mlclip_client.output.files import FORMATS, check_output, partial_name
from mlclip_client.output.rows import HeadClasses, failure, plain, read_classes, schema, success, to_row
from mlclip_client.output.writers import open_writer
from mlclip_client.pixels import PixelSpec
from mlclip_client.values import Answer, HeadInfo, Prediction

DIGEST = "e3b0c442" * 8

HEAD = HeadInfo("mld", ("a", "b", "c"), "hash", (0.5,) * 3, "tiny", PixelSpec(8), 2, "4", "0.1.0")
ALL = RowOptions(top_k=2, scores=True, embeddings=True)


def answered(source="x.png", scores=(0.1, 0.9, 0.7), options=ALL, labels=HEAD.labels):
    values = np.array(scores, np.float32)
    answer = Answer("mld", labels, values, values >= 0.5, "hash", "mld_bytes", "4")
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


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl", f"{'n' * 249}.jsonl"])
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
        check_output(str(tmp_path / name), *FORMATS)
    check_output(str(tmp_path / "fine.parquet"), *FORMATS)
    check_output("-", *FORMATS)


@pytest.mark.parametrize("name", ["pipe", "pipe.jsonl", "pipe.parquet"])
def test_pipes_are_written_to_and_stay(tmp_path, name):
    os.mkfifo(path := tmp_path / name)
    check_output(path, *FORMATS)
    with ThreadPoolExecutor(1) as threads:
        read = threads.submit(path.read_bytes)
        write(path, [answered(), failed()])
        data = read.result(60)
    if name.endswith("parquet"):
        assert pq.read_table(io.BytesIO(data)).num_rows == 2
    else:
        assert [json.loads(line) for line in data.splitlines()] == [WANTED, WANTED_FAILURE]
    assert path.is_fifo() and os.listdir(tmp_path) == [name]
    assert partial_name(str(path)) == str(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices_are_written_to_and_stay(tmp_path):
    os.mknod(path := tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    check_output(path, *FORMATS)
    with contextlib.suppress(PermissionError):  # where this folder may hold no devices
        write(path, [answered()])
    assert stat.S_ISCHR(path.lstat().st_mode) and os.listdir(tmp_path) == ["null"]


def test_an_open_descriptor_is_written_to_behind_what_is_there(tmp_path):
    with (tmp_path / "x.jsonl").open("wb") as file:
        file.write(b"{}\n")
        file.flush()
        write(f"/dev/fd/{file.fileno()}", [answered()])
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("exists", [True, False])
def test_symbolic_links_stay_and_lead_to_the_new_file(tmp_path, exists):
    (tmp_path / "far").mkdir()
    (tmp_path / "x.jsonl").symlink_to("far/real.jsonl")
    if exists:
        (tmp_path / "far" / "real.jsonl").write_text("older")
    check_output(tmp_path / "x.jsonl", *FORMATS)
    write(tmp_path / "x.jsonl", [answered()])
    assert (tmp_path / "x.jsonl").is_symlink()
    assert json.loads((tmp_path / "far" / "real.jsonl").read_text()) == WANTED
    assert os.listdir(tmp_path / "far") == ["real.jsonl"]
    assert partial_name(str(tmp_path / "x.jsonl")) == str(tmp_path / "far" / "real.partial.jsonl")


def test_files_obey_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "x") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.faults
@pytest.mark.parametrize("name", ["x.jsonl", "x.parquet"])
def test_a_full_disk_keeps_the_finished_rows_and_the_older_file(tmp_path, name, full_disk):
    """The files of this process cannot grow beyond 12 MiB; a row has 30 to 100 kB."""
    path, written = tmp_path / name, 0
    path.write_text("older result")
    wide = replace(HEAD, labels=tuple(f"label {n}" for n in range(5000)), thresholds=(0.5,) * 5000)
    row = answered(scores=np.random.default_rng(0).random(5000), labels=wide.labels)
    partial = tmp_path / name.replace("x.", "x.partial.")
    with full_disk(12 << 20), pytest.raises(ClientError, match=rf"the rows up to here are in {partial}$"):
        with open_writer(str(path), schema([wide], ALL), lambda: False) as write_row:
            while written < 10_000:
                written += 1
                write_row(row)
    if name.endswith("parquet"):
        found = pq.read_table(partial).num_rows
    else:
        found = len([json.loads(line) for line in partial.read_text().splitlines()])
    assert found == written < 10_000
    assert partial.stat().st_size > 4 << 20
    assert path.read_text() == "older result" and sorted(os.listdir(tmp_path)) == sorted([name, partial.name])


@pytest.mark.faults
def test_a_run_that_is_stopped_keeps_its_rows(tmp_path):
    with pytest.raises(ClientError, match="no server; the rows up to here are in .*x.partial.jsonl"):
        with open_writer(str(tmp_path / "x.jsonl"), schema([HEAD], ALL), lambda: False) as write_row:
            write_row(answered())
            raise ServerUnavailable("no server")
    assert os.listdir(tmp_path) == ["x.partial.jsonl"]
    assert (tmp_path / "x.partial.jsonl").stat().st_size < 1000
