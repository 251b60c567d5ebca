"""Options that several commands share, and what they turn into."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlclip.errors import DataError, TrainError
from mlclip.files import check_output
from mlclip.settings import Mode, TrainConfig

if TYPE_CHECKING:
    from mlclip.data import Dataset
    from mlclip.encoders.features import FeatureCache

MANIFESTS = (".jsonl", ".ndjson")
DataOption = Annotated[list[str], typer.Option("--data", help="Manifest, folder or COCO JSON; repeatable.")]
TopOption = Annotated[int | None, typer.Option(help="Keep only the N most frequent training labels.")]
EncoderOption = Annotated[
    str, typer.Option(help="Name of an open_clip model, mlclip-lite, or a folder with an encoder.")
]
PretrainedOption = Annotated[
    str | None, typer.Option(help="Pretrained tag or file of the encoder's weights, or `random`.")
]
DecodeOption = Annotated[
    str, typer.Option(help="`fast` shrinks large JPEGs while decoding them, in training, server and client alike.")
]
CacheOption = Annotated[Path, typer.Option(help="Folder of the feature cache.")]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as `mlclip train` writes it.")]
RunDataOption = Annotated[
    list[str] | None, typer.Option("--data", help="Data to use; by default the data that the run was trained on.")
]
ModeOption = Annotated[
    Mode, typer.Option("--thresholds", help="One threshold for each class (`per_class`) or one for all (`global`).")
]
BetaOption = Annotated[float, typer.Option(help="Beta of the F-beta that thresholds maximise; 2 favours recall.")]
EpochsOption = Annotated[int | None, typer.Option(help="Maximum number of epochs.")]
BatchSizeOption = Annotated[int | None, typer.Option(help="Images per step.")]
SeedOption = Annotated[int | None, typer.Option(help="Random seed of weights, image order and dropout.")]


def dataset(sources: list[str], top: int | None) -> Dataset:
    """Read prepared data; `top` keeps the most frequent labels (images without any stay, as negatives)."""
    from mlclip.data import read_dataset

    dataset = read_dataset(*sources)
    return dataset if top is None else dataset.with_classes(dataset.top(top))


def run_data(training: dict[str, Any], data: list[str] | None) -> Dataset:
    """Read the given data, or the data that a run was trained on."""
    from mlclip.data import read_dataset

    sources = data or training.get("data")
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources) or not sources:
        raise DataError("this run does not record the data it was trained on: name it with --data")
    try:
        return read_dataset(*sources)
    except DataError as error:
        if data:
            raise
        raise DataError(f"the data that this run was trained on: {error}: name it with --data if it moved") from error


def with_settings(training: TrainConfig, given: dict[str, Any]) -> TrainConfig:
    """Put settings into those of a training; another loss comes without the parameters of the old one."""
    if given.get("loss", training.loss) != training.loss:
        given = {"loss_options": {}} | given
    return replace(training, **given)


def recorded(sources: list[str]) -> list[str]:
    """Sources as a run's config.json records them: found from any folder."""
    from mlclip.data.read import parse_source

    parsed = map(parse_source, sources)
    return [f"{split}={path.absolute()}" if split else str(path.absolute()) for path, split in parsed]


def check_manifest(out: Path, *inputs: Path | str | None) -> None:
    """Refuse a manifest to write that is no JSON lines, cannot be written or is one of the inputs."""
    from mlclip.data.read import input_files

    check_output(out, [file for given in inputs if given is not None for file in input_files(given)], MANIFESTS)


def check_head(name: str) -> None:
    """Refuse an unknown head, without loading the others."""
    if not (Path(__file__).parents[1] / "heads" / f"{name}.py").is_file():
        raise TrainError(f"unknown head {name!r}: `mlclip heads` lists them")


def feature_cache(encoder: str, pretrained: str | None, folder: Path, decode: str = "exact") -> FeatureCache:
    """Load an encoder and open its features cache."""
    from mlclip.encoders.clip import load_encoder
    from mlclip.encoders.features import FeatureCache

    return FeatureCache(load_encoder(encoder, pretrained, decode), folder)


def is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def numbers(options: list[str] | None) -> dict[str, float] | None:
    """Read `name=number` options; None where there are none."""
    pairs = [option.partition("=") for option in options or ()]
    try:
        return {name: float(value) for name, _, value in pairs} or None
    except ValueError as error:
        raise TrainError(f"--loss-option takes name=number, such as gamma_neg=3: {error}") from error
