"""Train an encoder's two towers together with a head that `trains_encoder`.

Pictures are decoded once, at twice the encoder's size, into a memory-mapped scratch file; each step crops and jitters
them as in pre-training. A step also passes label texts through the text tower, so its cost grows with the number of
classes up to the head's `text_batch`; beyond that, negatives are sampled. A GPU is used if torch finds one.
"""

import copy
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlclip.data import Dataset
from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.clip import Encoder
from mlclip.errors import TrainError
from mlclip.heads import Head
from mlclip.heads.values import label_prompts
from mlclip.losses import LOSSES
from mlclip.settings import TrainConfig
from mlclip.training.loop import Epoch, run_epochs
from mlclip.training.pictures import Pixels, augmented, decode_pictures, normalized
from mlclip.training.pretrain import mixed_precision

LONG = 3 * 3600
"""Seconds of fine-tuning on a CPU above which a GPU is recommended."""
_log = logging.getLogger(__name__)


def finetune(
    head: Head,
    encoder: Encoder,
    dataset: Dataset,
    config: TrainConfig,
    *,
    scratch: Path,
    on_images: Progress = quiet,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> tuple[Encoder, list[Epoch]]:
    """Train a copy of an encoder, and a head in place, on the splits `train` and `val`.

    The head's label texts are not set here, and the loss is always averaged over images and classes. `scratch` is a
    folder for the decoded pictures, which are deleted afterwards. Gives the trained encoder, its weights rounded to the
    float16 that its folder will hold, and the epochs, in order.
    """
    train, validation = dataset.split("train"), dataset.split("val")
    if not validation.targets().any():
        raise TrainError("fine-tuning needs images with labels in `val`: check the splits")
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        spec = replace(encoder.spec, size=2 * encoder.spec.size)
        pictures = decode_pictures(train.items, spec, Path(folder) / "train", on_images)
        unseen = decode_pictures(validation.items, encoder.spec, Path(folder) / "val", on_images)
        towers = _Towers(encoder, head, dataset.classes)
        head.calibrate(towers.outputs(unseen), validation.targets(), encoder.sigmoid_scale)
        history = _train(towers, (pictures, train.targets()), (unseen, validation.targets()), config, on_epoch)
    head.cpu().eval()
    model = towers.model.cpu().half().float()
    tuned = Encoder(
        model, name=encoder.name, pretrained=encoder.pretrained, tag=encoder.tag, decode=encoder.spec.decode
    )
    tuned.tag = f"{encoder.tag}-{head.name}-{tuned.fingerprint[:6]}"
    return tuned, history


class _Towers(nn.Module):
    """A trainable copy of both towers, with the head that compares their embeddings."""

    def __init__(self, encoder: Encoder, head: Head, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.model = copy.deepcopy(encoder.model).requires_grad_(True)
        self.head = head
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.size, self.preprocess = encoder.spec.size, dict(self.model.visual.preprocess_cfg)  # type: ignore
        self.prompts = encoder.tokenizer(label_prompts(classes)).to(self.device)
        self.to(self.device)

    def images(self, images: Tensor) -> Tensor:
        """Normalised pictures [B, 3, S, S] to embeddings float32 [B, D] of length 1."""
        return F.normalize(self.model.encode_image(images.to(self.device)).float(), dim=-1)  # type: ignore[operator]

    def texts(self, columns: Tensor) -> Tensor:
        """Numbers of classes [M] to their texts' embeddings float32 [M, D] of length 1."""
        return F.normalize(self.model.encode_text(self.prompts[columns]).float(), dim=-1)  # type: ignore[operator]

    @torch.inference_mode()
    def outputs(self, pictures: Pixels) -> npt.NDArray[np.float32]:
        """Logits float32 [R, N] of pictures without augmentation, uint8 [R, S, S, 3]."""
        self.eval()
        size = self.head.text_batch
        texts = torch.cat([self.texts(columns) for columns in torch.arange(len(self.prompts)).split(size)])
        rows = []
        for start in range(0, len(pictures), 64):
            images = torch.from_numpy(pictures[start : start + 64]).permute(0, 3, 1, 2) / 255
            rows.append(self.head.pair_logits(self.images(normalized(images, self.preprocess)), texts).cpu().numpy())
        return np.concatenate(rows)


def _train(
    towers: _Towers,
    train: tuple[Pixels, npt.NDArray[np.uint8]],
    validation: tuple[Pixels, npt.NDArray[np.uint8]],
    config: TrainConfig,
    on_epoch: Callable[[Epoch], None],
) -> list[Epoch]:
    """Gradient steps, from pictures [R, 2S, 2S, 3] with targets [R, N], and [R', S, S, 3] with theirs."""
    pictures, targets = train
    count = -(-len(pictures) // config.batch_size)
    forward = len(validation[0]) / len(pictures) / 3  # a pass without gradients costs about a third of a step
    pace = _Pace(config.epochs, count * (1 + forward), towers.device)

    def loss(rows: npt.NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        images = augmented(pictures, rows, towers.size, towers.preprocess, rng)
        return _loss(towers, images, targets[rows], config, rng)

    return run_epochs(
        towers, list(towers.parameters()), len(pictures), loss, lambda: towers.outputs(validation[0]), validation[1],
        config, on_epoch, pace.step,
    )  # fmt: skip


def _loss(
    towers: _Towers, images: Tensor, targets: npt.NDArray[np.uint8], config: TrainConfig, rng: np.random.Generator
) -> Tensor:
    """Mean loss over images [B, 3, S, S] and all N classes, estimated from the drawn classes."""
    columns, weights = draw_classes(targets, towers.head.text_batch, rng)
    with mixed_precision(towers.device):
        image, text = towers.images(images), towers.texts(torch.from_numpy(columns))
    logits = towers.head.pair_logits(image.float(), text.float())
    wanted = torch.from_numpy(targets[:, columns]).float().to(towers.device)
    losses = LOSSES[config.loss](logits, wanted, **{**config.loss_options, "reduction": "none"})
    return (losses * torch.from_numpy(weights).to(towers.device)).sum() / targets.size


def draw_classes(
    targets: npt.NDArray[np.uint8], limit: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Choose the classes, int64 [M] with weights float32 [M], whose texts take part in a step with targets [B, N].

    All classes of the batch's images are included; others are drawn uniformly up to `limit`, and each is weighted for
    its share of those left out, so that the weighted sum of the losses is unbiased.
    """
    present, absent = np.flatnonzero(targets.any(axis=0)), np.flatnonzero(~targets.any(axis=0))
    room = min(len(absent), max(limit - len(present), 1))
    drawn = np.sort(rng.choice(absent, room, replace=False)) if room else absent
    weights = np.ones(len(present) + room, dtype=np.float32)
    weights[len(present) :] = len(absent) / max(room, 1)
    return np.concatenate([present, drawn]), weights


class _Pace:
    """Logs after the second step (the first is a warm-up) how long training will take."""

    def __init__(self, epochs: int, steps: float, device: torch.device) -> None:
        self.epochs, self.steps, self.device = epochs, steps, device
        self.done, self.since = 0, time.perf_counter()

    def step(self) -> None:
        """Count a step."""
        self.done += 1
        now = time.perf_counter()
        if self.done == 2:
            whole = (now - self.since) * self.steps * self.epochs
            advice = "; a GPU is recommended" if whole > LONG and self.device.type == "cpu" else ""
            where = f"{torch.get_num_threads()} CPU threads" if self.device.type == "cpu" else "this GPU"
            _log.info("fine-tuning: %d epochs take about %s on %s%s", self.epochs, duration(whole), where, advice)
        self.since = now


def duration(seconds: float) -> str:
    """A readable time: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
