"""The corpus that `mlclip-tiny` was pre-trained on.

Method: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
https://arxiv.org/abs/2103.00020, with the multi-positive loss of Yang et al. 2022, https://arxiv.org/abs/2204.03610.

Takes a folder that holds the sets `openclip`, `emojikw` and `scenes` (each with `images.tar` and `metadata.jsonl`),
unpacks their pictures and writes a manifest of those that the encoder may see:

* the train split of each set;
* no emoji in the `openmoji` style, whose licence asks that changed copies be shared alike;
* no emoji picture that is a cutout of a validation or test scene.

    python recipes/mlclip_tiny.py path/to/sets corpus
    mlclip pretrain --data corpus/corpus.jsonl --out src/mlclip/models/mlclip-tiny

A run of one minute: the same with `--epochs 1`.
"""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlclip.data import Dataset, Item, write_manifest

SETS = ("openclip", "emojikw", "scenes")


def main(sets: Path, out: Path) -> None:
    """Unpack the pictures of `sets` into `out` and write `out/corpus.jsonl`."""
    rows = {name: list(_rows(sets / name)) for name in SETS}
    held_out = {source for row in rows["scenes"] if row["split"] != "train" for source in row["source"]}
    items = []
    for name in SETS:
        with tarfile.open(sets / name / "images.tar") as archive:
            archive.extractall(out / name, filter="data")
        items += [_item(row, out / name) for row in rows[name] if may_be_seen(name, row, held_out)]
    classes = tuple(sorted({label for item in items for label in item.labels}))
    write_manifest(Dataset(tuple(items), classes), out / "corpus.jsonl")
    sys.stdout.write(f"{len(items):,} pictures in {out / 'corpus.jsonl'}\n")


def may_be_seen(name: str, row: dict[str, Any], held_out: set[str]) -> bool:
    """Whether the encoder may see a picture, by the rules above."""
    return (
        row["split"] == "train"
        and row.get("style") != "openmoji"
        and not (name == "emojikw" and row["source"] in held_out)
    )


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    with (folder / "metadata.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _item(row: dict[str, Any], folder: Path) -> Item:
    return Item(folder / row["file"], tuple(row["labels"]), text=row.get("title"), split="train")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python recipes/mlclip_tiny.py SETS OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
