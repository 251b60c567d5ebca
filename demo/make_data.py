"""Choose the demo's pictures from the full set of Open Clip Art pictures; `demo/data/README.md` says how.

The source folder holds `images.tar` and `metadata.jsonl` (one object per picture: `file`, `group`, `split`,
`labels`, `title`, `source`). The same source gives the same bytes on every machine.
"""

import hashlib
import json
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

LABELS = (
    "animal,arrow,beverage,bird,card,clothing,dessert,flag,food,fruit,insect,jigsaw,mammal,map,music"
    ",people,plant,road sign,smiley,sport,star,stick figure,tool,transportation"
).split(",")
"""What a person can see in a picture; words that say where a file was filed are left out."""

PICTURES = {"train": 720, "val": 240, "test": 240}  # the most pictures per split

LARGEST = 9000  # bytes of the largest picture taken

Picture = dict[str, Any]


def main(
    source: Annotated[Path, typer.Argument(help="Folder with images.tar and metadata.jsonl.")],
    out: Annotated[Path, typer.Option(help="Folder to write; its images and manifest are replaced.")],
) -> None:
    """Write `images/` and `manifest.jsonl` into the output folder and print the counts."""
    with tarfile.open(source / "images.tar") as archive:
        sizes = {member.name: member.size for member in archive.getmembers()}
        pictures = read_pictures(source / "metadata.jsonl", sizes)
        chosen = [picture for split, most in PICTURES.items() for picture in choose(pictures, split, most)]
        chosen.sort(key=lambda picture: str(picture["path"]))
        write(chosen, archive, out)
    typer.echo(table(chosen))


def read_pictures(metadata: Path, sizes: dict[str, int]) -> list[Picture]:
    """Rows of the demo manifest for every picture that is small enough and has one of the labels."""
    rows = []
    for line in metadata.read_text(encoding="utf-8").splitlines():
        full = json.loads(line)
        labels = sorted(set(full["labels"]) & set(LABELS))
        if labels and sizes[full["file"]] <= LARGEST:
            row = {"path": f"images/{full['file']}", "labels": labels, "split": full["split"]}
            rows.append(row | {"text": full["title"], "group": full["group"], "source": full["source"]})
    return rows


def choose(pictures: list[Picture], split: str, most: int) -> list[Picture]:
    """The pictures of the highest quota per label that lets in at most `most`."""
    groups: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture["split"] == split:
            groups[picture["group"]].append(picture)
    order = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    best: list[Picture] = []
    for quota in range(1, most + 1):
        taken = within_quota([groups[group] for group in order], quota)
        if len(taken) > most:
            break
        best = taken
    return best


def within_quota(groups: list[list[Picture]], quota: int) -> list[Picture]:
    """Take each group, whole, in which some label has not yet been taken `quota` times."""
    counts: Counter[str] = Counter()
    taken: list[Picture] = []
    for group in groups:
        labels = [label for picture in group for label in picture["labels"]]
        if any(counts[label] < quota for label in labels):
            counts.update(labels)
            taken.extend(group)
    return taken


def write(chosen: list[Picture], archive: tarfile.TarFile, out: Path) -> None:
    """Copy the pictures as they are and write one line per picture."""
    images = out / "images"
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    for picture in chosen:
        member = archive.extractfile(Path(picture["path"]).name)
        if member is None:
            raise typer.BadParameter(f"images.tar lacks {picture['path']}")
        (out / picture["path"]).write_bytes(member.read())
    lines = (json.dumps(picture, ensure_ascii=False) + "\n" for picture in chosen)
    (out / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


def table(chosen: list[Picture]) -> str:
    """The counts per label and split, as the README shows them."""
    splits = list(PICTURES)
    pairs = Counter((label, picture["split"]) for picture in chosen for label in picture["labels"])
    totals = Counter(picture["split"] for picture in chosen)
    rows = [["label", *splits, "all"], ["---"] + ["---:"] * (len(splits) + 1)]
    for label in LABELS:
        counts = [pairs[label, split] for split in splits]
        rows.append([label, *map(str, counts), str(sum(counts))])
    rows.append(["pictures", *(str(totals[split]) for split in splits), str(len(chosen))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    typer.run(main)
