"""Validation and preparation on real files: all that is wrong is listed, each by its line."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from mlclip.data import Dataset, Item, admit, read_dataset, scan, validate, write_manifest
from mlclip.errors import DataError


def picture(seed, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def messy(tmp_path):
    """A manifest in which every line but two has something wrong."""
    for seed, name in enumerate(("a.png", "b.png", "plain.png")):
        (tmp_path / name).write_bytes(picture(seed))
    (tmp_path / "copy_of_a.png").write_bytes(picture(0))
    (tmp_path / "text.png").write_bytes(b"no picture at all")
    (tmp_path / "cut.png").write_bytes(picture(7)[:60])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "sub").mkdir()
    path = tmp_path / "m.csv"
    path.write_text(
        "path,labels,split\n"
        "a.png,cat,train\n"  # 2
        "b.png,cat|unicorn,train\n"  # 3 unknown label
        "gone.png,cat,train\n"  # 4 missing
        "sub/../a.png,cat,train\n"  # 5 the same path
        "copy_of_a.png,cat,test\n"  # 6 same bytes, another split
        "text.png,cat,train\n"  # 7
        "cut.png,cat,train\n"  # 8
        "empty.png,cat,train\n"  # 9
        "plain.png,,train\n"  # 10 no label
        "folder.png,cat,train\n"  # 11
        "b.png,cat\n"  # 12 a column short
    )
    return path


def test_everything_wrong_is_named_by_its_line(messy):
    dataset, problems = scan(messy, classes=["cat", "dog"])
    report = validate(dataset, problems=problems)
    by_line = sorted((int(p.where.rpartition(":")[2]), p.severity, p.message.split(" ")[0]) for p in report.problems)
    assert by_line == [
        (3, "error", "unknown"),
        (4, "error", "missing"),
        (5, "error", "duplicate:"),
        (6, "error", "duplicate:"),
        (7, "error", "undecodable"),
        (8, "error", "undecodable"),
        (9, "error", "undecodable"),
        (10, "warning", "no"),
        (11, "error", str(messy.parent / "folder.png")),
        (12, "error", "2"),
    ]
    assert [item.path.name for item in report.accepted.items] == ["a.png", "plain.png"]
    assert report.lines()[-1] == "9 errors, 1 warning"
    assert len(report.lines()) == 11
    assert any(
        line.startswith(f"{messy}:6: error: duplicate: same picture as {messy}:2, which") for line in report.lines()
    )


def test_the_same_bytes_in_one_split_are_only_a_warning(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture(0))
    items = tuple(Item(tmp_path / name, ("x",), split="train", where=name) for name in ("a.png", "b.png"))
    report = validate(Dataset(items, ("x",)))
    assert [(p.where, p.severity) for p in report.problems] == [("b.png", "warning")]
    assert report.accepted.items[0].sha256 == report.accepted.items[1].sha256


def test_a_file_changed_since_its_hash_was_noted_is_a_warning_and_hashed_anew(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    report = validate(Dataset((Item(tmp_path / "a.png", ("x",), sha256="00"),), ("x",)))
    (problem,) = report.problems
    assert problem.severity == "warning" and "changed" in problem.message
    assert report.checked.items[0].sha256 != "00"


@pytest.mark.parametrize(("labels", "refused"), [("cat|dog", [3]), ("cat", [2, 3])])
def test_an_image_given_twice_with_other_labels_is_refused_as_a_whole(tmp_path, labels, refused):
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "m.csv").write_text(f"path,labels,group\na.png,cat|dog,1\na.png,{labels},2\n")
    report = validate(scan(tmp_path / "m.csv")[0])
    assert [int(problem.where.rpartition(":")[2]) for problem in report.errors] == sorted(refused, reverse=True)
    assert len(report.accepted) == 2 - len(refused)


def test_a_pipe_is_no_picture_and_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    problem = validate(Dataset((Item(tmp_path / "a.png", ("cat",)),), ("cat",))).errors[0]
    assert "cannot be read: a pipe or a device, not a file" in problem.message
    for name in ("labels.csv", "m.parquet", "coco.json"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: cannot be read: a pipe or a device"):
            scan(tmp_path / name)


def test_items_without_a_place_are_named_by_their_path(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(0))
    items = (Item(tmp_path / "a.png", ("x",)), Item(tmp_path / "gone.png", ("x",)))
    report = validate(Dataset(items, ("x",)))
    assert [problem.where for problem in report.errors] == [str(tmp_path / "gone.png")]
    assert len(report.accepted) == 1


def test_progress_reaches_the_number_of_images(messy):
    seen = []
    dataset, _ = scan(messy)
    validate(dataset, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, len(dataset)) for n in range(1, len(dataset) + 1)]


def make_set(folder, count=60):
    labels = ["red", "green", "blue"]
    lines = []
    for n in range(count):
        (folder / f"{n}.png").write_bytes(picture(n))
        names = ["rare"] if n == 0 else [labels[n % 3], *(["big"] if n % 2 else [])]
        lines.append(json.dumps({"path": f"{n}.png", "labels": names if n < count - 3 else [], "text": f"picture {n}"}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


def test_prepared_data_has_splits_hashes_and_only_classes_that_can_be_learnt(tmp_path):
    prepared = admit(make_set(tmp_path), min_count=2, seed=3)
    data = prepared.dataset
    assert not prepared.rejected
    assert data.classes == ("big", "blue", "green", "red")
    assert prepared.rare == ("rare",)
    assert prepared.unlabelled == 4  # three that had no label, and the one that was only rare
    assert sum(data.split_counts.values()) == len(data) == 56
    assert all(item.sha256 and item.split and item.text for item in data.items)
    assert prepared.lines()[-4].startswith("56 images: train ")
    out = tmp_path / "out" / "manifest.jsonl"
    write_manifest(data, out)
    again = read_dataset(out)
    assert (again.targets() == data.targets()).all()
    assert again.split_counts == data.split_counts
    write_manifest(admit(tmp_path, min_count=2, seed=3).dataset, tmp_path / "out" / "again.jsonl")
    assert out.read_bytes() == (tmp_path / "out" / "again.jsonl").read_bytes()


def test_unlabelled_images_stay_on_request(tmp_path):
    prepared = admit(make_set(tmp_path), keep_unlabelled=True)
    assert len(prepared.dataset) == 60
    assert prepared.unlabelled == 0


def test_broken_lines_are_rejected_and_the_rest_is_prepared(messy):
    prepared = admit(messy, fractions=(1, 0, 0))
    assert prepared.rejected
    assert {item.path.name for item in prepared.dataset.items} == {"a.png", "b.png"}


def test_nothing_usable_says_what_was_wrong_first(tmp_path):
    (tmp_path / "m.csv").write_text("path,labels\ngone.png,cat\nalso.png,cat\n")
    with pytest.raises(DataError, match=r"no image is usable; 2 errors, the first: .*m\.csv:2: missing file"):
        admit(tmp_path / "m.csv")
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "m.csv").write_text("path,labels\na.png,\n")
    with pytest.raises(DataError, match="no image has a label"):
        admit(tmp_path / "m.csv")


def test_a_min_count_that_nothing_reaches_is_refused(tmp_path):
    with pytest.raises(DataError, match="no label is on 99 training images"):
        admit(make_set(tmp_path), min_count=99)
