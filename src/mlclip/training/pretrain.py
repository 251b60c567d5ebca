"""Contrastive pre-training of a CLIP on captioned pictures, from nothing or against a locked image tower.

`mlclip-lite` was made the second way: locked-image tuning (Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image
text Tuning", https://arxiv.org/abs/2111.07991) trains the text tower alone, so pictures are encoded once.

Captions are redrawn at each step from a picture's "facts", its title and keywords, so one caption often fits several
pictures of a batch. Every picture whose facts include all facts of a caption counts as a positive: this is the
bidirectional multi-positive loss of UniCL (Yang et al. 2022, https://arxiv.org/abs/2204.03610), which equals CLIP's
(Radford et al. 2021) where captions are unique.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import open_clip
import torch
import torch.nn.functional as F
from mlclip_client.pixels import ImageError, PixelSpec, decode, to_pixels
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset, Sampler

from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.clip import pixel_spec
from mlclip.errors import TrainError
from mlclip.files import read_file
from mlclip.training.pictures import SMALLEST_CROP, jitter, normalized, random_crop

TEMPLATES = ("{}", "{}", "a picture of {}", "a photo of a {}", "clip art of {}")


@dataclass(frozen=True)
class Picture:
    """A captioned picture; its title may be empty."""

    path: Path
    title: str
    keywords: tuple[str, ...]

    @property
    def facts(self) -> frozenset[str]:
        """Keywords and title; titles are distinguished from equal keywords."""
        return frozenset(self.keywords) | ({f"title: {self.title}"} if self.title else frozenset())


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of a pre-training run."""

    epochs: int = 50
    batch_size: int = 128
    lr: float = 8e-4
    weight_decay: float = 0.2
    warmup: float = 0.06
    patch_dropout: float = 0.25
    smallest_crop: float = SMALLEST_CROP
    views: int = 3  # augmented views per picture, besides the plain one, where the image tower is locked
    lock_image: bool = False  # keep the image tower's weights, and train the text tower alone
    seed: int = 0


def multi_positive_loss(image: Tensor, text: Tensor, positive: Tensor, scale: Tensor) -> Tensor:
    """Bidirectional contrastive loss with several positives per row, a scalar.

    It is the mean of the image-to-text and text-to-image cross entropies against uniform targets, for images and texts
    [B, D], L2-normalised; `positive[i, j]`, bool [B, B], says that text j is true of image i. The diagonal is true.
    """
    logits = scale * image @ text.T
    target = positive.to(logits.dtype)
    rows = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, (target / target.sum(0, keepdim=True)).T)
    return (rows + columns) / 2


def pretrain(
    model: nn.Module,
    pictures: Sequence[Picture],
    tokenizer: Callable[[list[str]], Tensor],
    config: PretrainConfig,
    *,
    on_images: Progress = quiet,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """Train an open_clip model in place, on the CPU in bfloat16 autocast.

    Each picture needs a title or a keyword. Equal seeds on one machine give equal weights. `on_images` reports the
    pictures that a locked image tower has encoded; `on_epoch` is called with the epoch's number (from 1) and its mean
    loss.
    """
    torch.manual_seed(config.seed)
    visual: nn.Module = model.visual  # type: ignore[assignment]
    if config.lock_image:
        visual.requires_grad_(False)
    elif config.patch_dropout > 0 and isinstance(visual, open_clip.transformer.VisionTransformer):
        visual.patch_dropout = open_clip.transformer.PatchDropout(config.patch_dropout)
    data = _Captioned(pictures, pixel_spec(visual.preprocess_cfg), config)  # type: ignore[arg-type]
    if config.lock_image:
        data.features = _encode_views(visual, data, on_images)
    loader = DataLoader(
        data, batch_sampler=_Epochs(len(pictures), config), num_workers=1, persistent_workers=True, collate_fn=_collate
    )
    optimizer = _optimizer(model, config)
    batches = max(1, len(pictures) // config.batch_size)
    model.train()
    visual.train(not config.lock_image)
    for epoch in range(config.epochs):
        losses = []
        for batch, (images, captions, positive) in enumerate(loader):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * _schedule((epoch + batch / batches) / config.epochs, config.warmup)
            with mixed_precision(torch.device("cpu")):
                image = images if config.lock_image else visual(jitter(images, visual.preprocess_cfg))  # type: ignore
                image = F.normalize(image, dim=-1)
                text = model.encode_text(tokenizer(captions), normalize=True)  # type: ignore[operator]
            loss = multi_positive_loss(image.float(), text.float(), positive, model.logit_scale.exp())  # type: ignore
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))  # type: ignore[operator]
            losses.append(loss.item())
        on_epoch(epoch + 1, float(np.mean(losses)))
    return model.eval()


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """Autocast to bfloat16; plain attention on CPUs, where the flash kernel's backward pass is several times slower."""
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with torch.autocast(device.type, dtype=torch.bfloat16), attention:
        yield


def _schedule(progress: float, warmup: float) -> float:
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    plain = [p for n, p in trained if p.ndim < 2 or "embedding" in n]
    decayed = [p for n, p in trained if not (p.ndim < 2 or "embedding" in n)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)


Sample = tuple[npt.NDArray[np.generic], str, frozenset[str], frozenset[str]]


class _Captioned(Dataset[Sample]):
    """Pictures, decoded once, kept in memory at twice the encoder's size, and augmented on every read.

    With `features`, float32 [R, V, D] of V views, a picture is one of its views instead.
    """

    features: npt.NDArray[np.float32] | None = None

    def __init__(self, pictures: Sequence[Picture], spec: PixelSpec, config: PretrainConfig) -> None:
        self.pictures, self.config, self.spec = pictures, config, spec
        self.images = [self._load(picture.path) for picture in pictures]

    def _load(self, path: Path) -> Image.Image:
        try:
            image = decode(read_file(path))
        except (ImageError, OSError) as error:
            raise TrainError(f"{path}: {error}; remove it (`mlclip data read` finds such files)") from error
        image.thumbnail((2 * self.spec.size, 2 * self.spec.size), Image.Resampling.LANCZOS)
        return image

    def crop(self, index: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        """An augmented picture, uint8 [S, S, 3]."""
        return random_crop(self.images[index], self.spec.size, self.config.smallest_crop, rng)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        rng = np.random.default_rng((self.config.seed, epoch, index))
        picture = self.pictures[index]
        caption, said = draw_caption(picture, rng)
        if self.features is None:
            return self.crop(index, rng), caption, said, picture.facts
        views = self.features[index]
        return views[rng.integers(len(views))], caption, said, picture.facts


@torch.inference_mode()
def _encode_views(visual: nn.Module, data: _Captioned, on_images: Progress) -> npt.NDArray[np.float32]:
    """Features [R, 1 + V, D] of every picture as it is and of V augmented views, which jitter changes too."""
    visual.eval()
    config, preprocess = data.config, visual.preprocess_cfg
    rows = []
    for index, image in enumerate(data.images):
        rng = np.random.default_rng((config.seed, index))
        plain = torch.tensor(to_pixels(image, data.spec))[None]
        images = normalized(plain.permute(0, 3, 1, 2) / 255, preprocess)  # type: ignore[arg-type]
        if config.views:
            crops = torch.from_numpy(np.stack([data.crop(index, rng) for _ in range(config.views)]))
            images = torch.cat([images, jitter(crops, preprocess)])  # type: ignore[arg-type]
        rows.append(visual(images).numpy())
        on_images(index + 1, len(data))
    return np.stack(rows)


class _Epochs(Sampler[list[tuple[int, int]]]):
    """Shuffled full batches of (epoch, index); a new epoch on every pass."""

    def __init__(self, count: int, config: PretrainConfig) -> None:
        self.count, self.config, self.epoch = count, config, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.config.seed, self.epoch)).permutation(self.count)
        size = min(self.config.batch_size, self.count)
        for start in range(0, self.count - size + 1, size):
            yield [(self.epoch, int(i)) for i in order[start : start + size]]
        self.epoch += 1


def draw_caption(picture: Picture, rng: np.random.Generator) -> tuple[str, frozenset[str]]:
    """Draw a caption from a picture's title and keywords: the text, and the facts it states."""
    keywords = [str(k) for k in rng.permutation(picture.keywords)] if picture.keywords else []
    keywords = keywords[: 1 + int(rng.integers(4))]
    use_title = bool(picture.title) and (not keywords or rng.random() < 0.4)
    if use_title and rng.random() < 0.5:
        keywords = []
    words = ([picture.title] if use_title else []) + keywords
    said = frozenset(keywords) | ({f"title: {picture.title}"} if use_title else frozenset())
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(", ".join(words)), said


def _collate(samples: list[Sample]) -> tuple[Tensor, list[str], Tensor]:
    pixels, captions, said, facts = zip(*samples, strict=True)
    positive = torch.tensor([[stated <= known for stated in said] for known in facts])
    return torch.from_numpy(np.stack(pixels)), list(captions), positive
