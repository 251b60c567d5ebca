"""The data that ships: it is what its README says, goes through the door, and can be made again."""

import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from mlclip.data import admit, read_dataset

DEMO = Path(__file__).resolve().parents[2] / "demo"


@pytest.fixture(scope="module")
def demo():
    return read_dataset(DEMO / "data")


def test_nothing_is_wrong_with_it():
    prepared = admit(DEMO / "data")
    assert prepared.report.problems == ()
    assert len(prepared.dataset) == 1187


def test_it_stays_small():
    assert sum(file.stat().st_size for file in (DEMO / "data").rglob("*") if file.is_file()) <= 6_000_000


def test_no_group_is_in_two_splits(demo):
    splits = {}
    for item in demo.items:
        assert splits.setdefault(item.group, item.split) == item.split


def test_every_class_can_be_trained_validated_and_tested(demo):
    assert len(demo.classes) == 24
    for split, fewest in (("train", 15), ("val", 3), ("test", 5)):
        assert demo.split(split).targets().sum(axis=0).min() >= fewest


def test_the_readme_counts_what_is_there(demo):
    pairs = Counter((label, item.split) for item in demo.items for label in item.labels)
    expected = {name: [pairs[name, split] for split in ("train", "val", "test")] for name in demo.classes}
    expected["pictures"] = list(demo.split_counts.values())
    readme = (DEMO / "data" / "README.md").read_text(encoding="utf-8")
    stated = {
        name: list(map(int, row.split("|")))
        for name, row in re.findall(r"^\| ([^\d\n]+?) \| ([\d |]+\d) \|$", readme, re.M)
    }
    assert stated == {name: [*counts, sum(counts)] for name, counts in expected.items()}


def make_source(folder):
    """A source of 900 near-random rows: more stars than the quota lets in, one file too large, one without a label."""
    folder.mkdir()
    rows = []
    with tarfile.open(folder / "images.tar", "w") as archive:
        for n in range(900):
            data = bytes([n % 251]) * (9001 if n == 5 else 100)
            info = tarfile.TarInfo(f"{n:03}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            labels = ["icon"] if n == 6 else ["star", "icon"] + (["music"] if n % 9 == 0 else [])
            split = ("train", "val", "test")[n // 2 % 3]
            rows.append(
                {"file": info.name, "group": f"g{n // 2}", "split": split, "labels": labels, "title": "", "source": ""}
            )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_the_script_gives_the_same_bytes_twice_and_keeps_its_rules(tmp_path):
    source = make_source(tmp_path / "source")
    results = []
    for name in ("one", "two"):
        out = tmp_path / name
        subprocess.run([sys.executable, DEMO / "make_data.py", source, "--out", out], check=True, capture_output=True)
        results.append({file.relative_to(out): file.read_bytes() for file in out.rglob("*") if file.is_file()})
    assert results[0] == results[1]
    dataset = read_dataset(tmp_path / "one")
    counts = dataset.split_counts
    assert counts["train"] == 299  # all, but for the file that is too large or has no label
    assert counts["val"] <= 240 and counts["test"] <= 240
    names = {item.path.name for item in dataset.items}
    assert "005.jpg" not in names and "006.jpg" not in names
    assert dataset.classes == ("music", "star")
