"""Near duplicates, against a plain loop; and the command."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.output import near_duplicates as near
from mlclip_client.output.near_duplicates import first_alike


def plain_loop(embeddings, cosine):
    first, known = [], []
    for row, vector in enumerate(embeddings):
        scores = [float(vector @ embeddings[other]) for other in known]
        if scores and max(scores) >= cosine:
            first.append(known[int(np.argmax(scores))])
        else:
            first.append(row)
            if not np.isnan(vector[0]):
                known.append(row)
    return first


def some_embeddings(rows=300, width=6):
    draw = np.random.default_rng(5)
    centres = draw.standard_normal((40, width))
    found = centres[draw.integers(0, 40, rows)] + 0.15 * draw.standard_normal((rows, width))
    found[[7, 200]] = np.nan
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 64, 1024])
@pytest.mark.parametrize("cosine", [0.9, 0.97, 1.1])
def test_blocks_find_what_a_plain_loop_finds(monkeypatch, block, cosine):
    monkeypatch.setattr(near, "_BLOCK", block)
    embeddings = some_embeddings()
    found = first_alike(embeddings, cosine).tolist()
    assert found == plain_loop(embeddings, cosine)
    assert (found == list(range(300))) is (cosine > 1)
    assert found[7] == 7 and found[200] == 200, "rows without an embedding resemble nothing"


@pytest.mark.parametrize("parts", [1, 3])
def test_the_command_lists_each_picture_with_the_one_it_resembles(run, tmp_path, parts):
    embeddings = np.float32([[1, 0], [0, 1], [0.999, 0.0447], [np.nan, np.nan], [0, 1], [-1, 0]])
    table = pa.table(
        {"path": list("abcdef"), "embedding": pa.FixedSizeListArray.from_arrays(embeddings.ravel(), 2)},
        schema=pa.schema([("path", pa.string()), pa.field("embedding", pa.list_(pa.float32(), 2), nullable=False)]),
    )
    for part in range(parts):
        pq.write_table(table.slice(6 // parts * part, 6 // parts), tmp_path / f"{part}.parquet")
    labels = tmp_path if parts > 1 else tmp_path / "0.parquet"
    out = tmp_path / "pairs.csv"
    result = run("duplicates", labels, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"2 of 6 pictures resemble an earlier one; written to {out}\n"
    assert list(csv.reader(out.read_text().splitlines())) == [["path", "like"], ["c", "a"], ["e", "b"]]


@pytest.mark.parametrize("name", ["nofile", "notes.md", ""])
def test_anything_but_parquet_is_wrong_usage_and_the_message_says_what_to_name(run, tmp_path, name):
    (tmp_path / "notes.md").write_text("no Parquet")
    result = run("duplicates", tmp_path / name)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert str(tmp_path / name) in result.stderr and "name " in result.stderr


def test_what_the_system_refuses_is_said_with_its_place(run):
    result = run("duplicates", "a" * 300)
    assert (result.exit_code, result.stderr) == (1, f"error: {'a' * 300}: File name too long\n")


def test_a_place_that_cannot_be_written_is_refused_before_any_work(run, tmp_path):
    result = run("duplicates", tmp_path / "nofile", "--out", tmp_path / "no" / "pairs.csv")
    line = f"error: --out {tmp_path / 'no' / 'pairs.csv'}: there is no folder {tmp_path / 'no'}\n"
    assert (result.exit_code, result.stderr) == (2, line)


@pytest.mark.parametrize(
    "embeddings",
    [
        pa.array([[1.0, 0.0], None], pa.list_(pa.float32(), 2)),
        pa.array([[1.0, 0.0], [1.0, 0.0]], pa.list_(pa.float32())),
        pa.array(["1 0", "1 0"]),
    ],
    ids=["null", "of any length", "texts"],
)
def test_embeddings_of_others_are_one_line(run, tmp_path, embeddings):
    pq.write_table(pa.table({"path": ["a", "b"], "embedding": embeddings}), tmp_path / "x.parquet")
    result = run("duplicates", tmp_path / "x.parquet", "--out", tmp_path / "pairs.csv")
    assert result.exit_code == 2 and result.stderr.startswith(f"error: {tmp_path / 'x.parquet'}: "), result.stderr
    assert result.stderr.endswith(": classify again\n") and result.stderr.count("\n") == 1


def test_rows_without_embeddings_are_refused(run, tmp_path):
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "x.parquet")
    result = run("duplicates", tmp_path / "x.parquet")
    line = f"error: {tmp_path / 'x.parquet'} has no embeddings: classify with --embeddings\n"
    assert (result.exit_code, result.stderr) == (2, line)
