"""What all peers need: one set of weights in every format, and a model repository with a head."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlclip_export import export_runs
from mlclip_export.repository import latest_version

from mlclip.checkpoint import EncoderRef, Run
from mlclip.encoders.clip import Encoder, load_encoder
from mlclip.encoders.folder import save_encoder
from mlclip.heads import FeatureShapes, build_head
from mlclip_bench.peers.hugging_face import write_hugging_face

HEAD = "mld"


@dataclass(frozen=True)
class Material:
    """Where the material is: the same weights in three formats, and a model repository with the head HEAD.

    `spec` describes the pixels that the encoder needs, `encoder` is its tag and fingerprint.
    """

    open_clip: Path
    hugging_face: Path
    onnx: Path
    repository: Path
    spec: dict[str, Any]
    encoder: dict[str, str]

    def settings(self) -> dict[str, Any]:
        """The settings that peers get, as plain JSON values."""
        files = {name: str(getattr(self, name)) for name in ("open_clip", "hugging_face", "onnx")}
        return {**files, "spec": self.spec, "head": HEAD}


def prepare(
    name: str, pretrained: str | None, classes: int, folder: Path, on_step: Callable[[str], None] = lambda step: None
) -> Material:
    """Make what does not exist yet of the material for an encoder (see `load_encoder`) and a head of N random classes.

    Weights are stored in float16 and read back, so that every format holds the same numbers. Each set of weights has a
    folder in `folder`. Raises MlclipError if the encoder cannot be loaded or exported, or has no Hugging Face format.
    """
    on_step("the encoder")
    asked = load_encoder(name, pretrained)
    home = folder / asked.fingerprint
    stored = _once(home / asked.tag, lambda part: save_encoder(asked, part))
    encoder = load_encoder(str(stored))
    on_step("the encoder in Hugging Face's format")
    hugging_face = _once(home / "hugging_face", lambda part: write_hugging_face(encoder, part))
    repository = home / f"repository-{classes}"
    export_runs(
        {HEAD: _run(encoder, classes)},
        repository,
        encoders=[encoder],
        on_step=lambda step: on_step(f"the model repository: {step}"),
    )
    return Material(
        open_clip=stored,
        hugging_face=hugging_face,
        onnx=latest_version(repository / f"encoder_{encoder.tag}") / "model.onnx",
        repository=repository,
        spec=vars(encoder.spec),
        encoder={"tag": encoder.tag, "fingerprint": encoder.fingerprint},
    )


def _run(encoder: Encoder, classes: int) -> Run:
    shapes = FeatureShapes(encoder.embedding_width, encoder.token_count, encoder.token_width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = build_head(HEAD, classes, shapes)
    labels = tuple(f"label {number}" for number in range(classes))
    return Run(head.eval(), labels, np.full(classes, 0.5, dtype=np.float32), EncoderRef.of(encoder))


def _once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder under another name and rename it, so that a folder with this name is complete."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        write(part)
        part.replace(folder)
    return folder
