"""`mlclip features|pretrain|encoders`: the frozen encoder and its features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mlclip.cli.options import CacheOption, DataOption, DecodeOption, EncoderOption, PretrainedOption, feature_cache
from mlclip.console import console, progress, say
from mlclip.encoders import DEFAULT_CACHE, DEFAULT_ENCODER, MODELS
from mlclip.files import check_output
from mlclip.settings import check_number, check_seed


def features(
    data: DataOption,
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    decode: DecodeOption = "exact",
    tokens: Annotated[bool, typer.Option("--tokens", help="Also store tokens, which the head `mld` reads.")] = False,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Compute the features of all images and store them in the cache, before several trainings run at once."""
    from mlclip.data import read_dataset

    paths = [item.path for item in read_dataset(*data).items]
    store = feature_cache(encoder, pretrained, cache, decode)
    for kind in ("embedding", *(["tokens"] if tokens else [])):
        with progress(f"encoding: {kind}") as on_progress:
            store.rows(paths, kind, on_progress=on_progress)
    say(f"{len(paths):,} images are in {store.folder}")


def pretrain(
    data: DataOption,
    out: Annotated[Path, typer.Option(help="Encoder folder to write.")],
    architecture: Annotated[
        Path, typer.Option(help="The model's open_clip_config.json.", show_default=f"that of {DEFAULT_ENCODER}")
    ] = MODELS / DEFAULT_ENCODER / "open_clip_config.json",
    image_weights: Annotated[
        Path | None, typer.Option(help="Weights of the image tower (safetensors), named as in its model.")
    ] = None,
    lock_image: Annotated[
        bool, typer.Option("--lock-image", help="Keep the image tower and train the text tower alone (LiT).")
    ] = False,
    epochs: Annotated[int, typer.Option(help="Number of epochs.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    seed: Annotated[int, typer.Option(help="Random seed of weights, image order and captions.")] = 0,
) -> None:
    """Train a CLIP, or its text tower alone, on the `train` split; captions come from titles and labels."""
    check_seed(seed)
    check_number("--epochs", epochs, 0, whole=True)
    check_number("--batch-size", batch_size, 1, whole=True)
    check_output(out, data)
    from mlclip.data import read_dataset
    from mlclip.encoders.folder import load_image_weights, new_model, save
    from mlclip.training.pretrain import Picture, PretrainConfig, pretrain

    items = read_dataset(*data).split("train").items
    pictures = [Picture(item.path, item.text or "", item.labels) for item in items if item.text or item.labels]
    model, tokenizer = new_model(architecture, seed)
    if image_weights is not None:
        load_image_weights(model, image_weights)
    console.print(f"{len(pictures):,} pictures, {epochs} epochs")
    config = PretrainConfig(epochs=epochs, batch_size=batch_size, lock_image=lock_image, seed=seed)
    with progress("encoding pictures") as on_images:
        pretrain(
            model, pictures, tokenizer, config,
            on_images=on_images, on_epoch=lambda epoch, loss: console.print(f"epoch {epoch}: loss {loss:.3f}"),
        )  # fmt: skip
    save(model, json.loads(architecture.read_text()), out)
    say(f"wrote {out}")


def encoders() -> None:
    """List the names that --encoder takes, with their pretrained tags."""
    import open_clip

    for name in (DEFAULT_ENCODER, *open_clip.list_models()):
        tags = open_clip.list_pretrained_tags_by_model(name)
        say(f"{name}  {' '.join(tags) if tags else ''}".rstrip())
