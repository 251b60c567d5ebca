"""Drift and review, on rows that are made here."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.options import RowOptions
from mlclip_client.output.rows import fill_embeddings, schema
from mlclip_client.pixels import PixelSpec
from mlclip_client.review.choose import choose
from mlclip_client.review.drift import difference, find_changes
from mlclip_client.values import HeadInfo

LABELS = ("cat", "dog", "fox")
PROMISE = {"figure": "precision", "level": 0.9, "confidence": 0.9}
PROMISE["classes"] = {"cat": None, "dog": "its precision is too low", "fox": "9 positives, 42 needed"}


def head(name="mld", **facts):
    known = {"novelty": True, "promise": PROMISE, "validation": {"images": 400, "selected": [200, 40, 4]}}
    return HeadInfo(name, LABELS, "hash", (0.5, 0.4, 0.3), "tiny", PixelSpec(8), 2, "1", "0.1.0", **known | facts)


def write_rows(path, scores, novelty=None, embeddings=None, heads=None):
    """Rows of images 0.png, 1.png, ... with scores [R, 3]; a row of NaN is an error."""
    heads = heads or [head()]
    options = RowOptions(embeddings=embeddings is not None)
    rows = []
    for number, own in enumerate(scores):
        order = sorted(range(3), key=lambda n: -own[n])
        chosen = [n for n in order if own[n] >= heads[0].thresholds[n]]
        answer = {"top_labels": [LABELS[n] for n in order], "top_scores": [own[n] for n in order]}
        answer |= {"labels": [LABELS[n] for n in chosen], "scores": [own[n] for n in chosen]}
        answer |= {"labels_sha256": "hash", "model": "mld", "version": "1"}
        answer["novelty"] = None if novelty is None else float(novelty[number])
        failed = np.isnan(own[0])
        row = {"path": f"{number}.png", "answers": None if failed else {each.name: answer for each in heads}}
        row["error_kind"] = "decode" if failed else None
        if embeddings is not None and not failed:
            row["embedding"] = embeddings[number]
        rows.append(row)
    shape = schema(heads, options)
    pq.write_table(pa.Table.from_pylist(fill_embeddings(rows, shape), schema=shape), path)
    return path


def like_validation(rows, seed, shares=(0.5, 0.1, 0.01)):
    draw = np.random.default_rng(seed)
    return np.where(draw.random((rows, 3)) < shares, 0.9, 0.1), draw.random(rows)


def test_the_interval_of_a_difference_is_newcombes():
    """The example of Newcombe 1998, table II, method 10."""
    one, two, low, high = difference((48, 80), (56, 70), 1.959964)
    assert (one, two) == (0.6, 0.8)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_other_images_of_the_same_kind_are_no_alarm(run, tmp_path):
    for seed in range(20):
        scores, novelty = like_validation(1000, seed)
        changes = find_changes(write_rows(tmp_path / "rows.parquet", scores, novelty))
        assert {change.what for change in changes} == {*LABELS, None}
        assert max(change.certain for change in changes) < 0.02
    result = run("drift", tmp_path / "rows.parquet", "--alarm", "0.02")
    assert (result.exit_code, result.stdout.count("\n")) == (0, 4)
    assert "ALARM" not in result.stdout


@pytest.mark.parametrize(("shares", "novel", "what"), [((0.5, 0.5, 0), 0, "dog"), ((0.5, 0.1, 0), 0.4, None)])
def test_images_of_another_kind_are_an_alarm(run, tmp_path, shares, novel, what):
    scores, novelty = like_validation(300, 1, shares)
    rows = write_rows(tmp_path / "rows.parquet", scores, novel + (1 - novel) * novelty)
    result = run("drift", rows)
    assert result.exit_code == 3, result.output
    first, *others = result.stdout.splitlines()
    name = "median novelty: 50.0% to" if what is None else "label 'dog': 10.0% to"
    assert first.startswith(f"mld: {name} ") and first.endswith("ALARM")
    assert not any("ALARM" in line for line in others)
    found = json.loads(run("drift", rows, "--json").stdout)
    assert [found[0]["what"], len(found)] == [what, 4]
    assert found[0]["low"] > 0.1


def test_rows_are_compared_with_other_rows(run, tmp_path):
    """Also where the export did not record validation."""
    plain = [head(validation=None, novelty=False)]
    old = write_rows(tmp_path / "old.parquet", like_validation(500, 0)[0], heads=plain)
    new = write_rows(tmp_path / "new.parquet", like_validation(500, 1, (0.5, 0.1, 0.4))[0], heads=plain)
    assert find_changes(old, new)[0].what == "fox"
    assert run("drift", old, "--since", old).exit_code == 0
    assert run("drift", old, "--since", new).exit_code == 3
    alone = run("drift", old)
    assert (alone.exit_code, alone.stderr) == (
        2,
        f"error: {old}: nothing to compare: name Parquet rows whose head is exported with validation figures; "
        "or compare with --since\n",
    )


def circle(*degrees):
    return np.float32([[np.cos(np.radians(each)), np.sin(np.radians(each))] for each in degrees])


def test_every_reason_names_its_pictures(tmp_path):
    scores = np.full((8, 3), 0.01)
    scores[0, 0], scores[1, 1], scores[2, 2] = 0.52, 0.37, 0.05  # thresholds are 0.5, 0.4, 0.3
    scores[7] = np.nan
    novelty = [0, 0, 0, 0.99, 0.2, 0.96, 0, 0]
    embeddings = circle(0, 40, 80, 120, 120.5, 200, 300, 0)
    rows = write_rows(tmp_path / "rows.parquet", scores, novelty, embeddings)
    found = choose(rows, 100)
    assert [(Path(each.path).relative_to(Path.cwd()).name, each.reason) for each in found[:4]] == [
        ("0.png", "uncertain: cat 0.52, threshold 0.50"),
        ("3.png", "novel: 0.99"),
        ("1.png", "uncertain: dog 0.37, threshold 0.40"),
        ("2.png", "few images: fox, 9 positives, 42 needed"),
    ]
    assert found[0].labels == ["cat"] and found[1].labels == []
    assert {Path(each.path).name for each in found} == {f"{n}.png" for n in (0, 1, 2, 3, 5, 6)}, (
        "4 is like 3, and 7 an error"
    )
    assert choose(rows, 2) == found[:2]


def test_the_queue_is_written(run, tmp_path):
    rows = write_rows(tmp_path / "rows.parquet", like_validation(50, 0)[0], heads=[head(), head("knn1")])
    result = run("review", rows, "--budget", 12, "--out", tmp_path / "queue.jsonl", "--head", "knn1")
    assert result.exit_code == 0, result.output
    lines = list(map(json.loads, (tmp_path / "queue.jsonl").read_text().splitlines()))
    assert len(lines) == 12 and set(lines[0]) == {"path", "labels", "reason"}
    assert result.stderr == f"12 pictures to look at (8 uncertain, 4 few images); written to {tmp_path}/queue.jsonl\n"
    again = tmp_path / "again.jsonl"
    again.write_text('{"path": "a", "answers": {"s": {"labels": ["a"], "scores": [1]}}}\n')
    refused = run("review", again, "--out", again)
    assert (refused.exit_code, refused.stderr) == (2, f"error: {again} is an input: name another file for the output\n")
    bare = run("review", again, "--out", tmp_path / "q.jsonl")
    assert bare.exit_code == 2 and "does not name the thresholds of its head: name Parquet rows" in bare.stderr
    unclear = run("review", rows, "--out", tmp_path / "q.jsonl")
    assert (unclear.exit_code, unclear.stderr) == (
        2,
        f"error: {rows} has the heads mld, knn1: name one with --head\n",
    )
