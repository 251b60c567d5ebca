"""`mlclip train`: a head on a frozen encoder. Options that are not listed here are the head's own."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mlclip.cli.options import (
    BatchSizeOption,
    BetaOption,
    CacheOption,
    DataOption,
    DecodeOption,
    EncoderOption,
    EpochsOption,
    ModeOption,
    PretrainedOption,
    SeedOption,
    TopOption,
    check_head,
    dataset,
    feature_cache,
    is_given,
    numbers,
    recorded,
    with_settings,
)
from mlclip.console import console, metrics_table, progress, say
from mlclip.encoders import DEFAULT_CACHE, DEFAULT_ENCODER
from mlclip.errors import TrainError
from mlclip.files import check_output
from mlclip.presets import find_recipe
from mlclip.settings import Recipe, ThresholdConfig, TrainConfig, json_or_text

ExtendOption = Annotated[
    Path | None, typer.Option(help="Run folder to extend by the data's new classes; head and encoder stay.")
]
OWN_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}


def train(
    context: typer.Context,
    data: DataOption,
    head: Annotated[
        str, typer.Option(help="A head; `mlclip heads NAME` describes it. Its own options are accepted too.")
    ] = "mld",
    encoder: EncoderOption = DEFAULT_ENCODER,
    pretrained: PretrainedOption = None,
    decode: DecodeOption = "exact",
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write; by default runs/HEAD, runs/RECIPE, or RUN-extended.")
    ] = None,
    extend: ExtendOption = None,
    recipe: Annotated[
        str | None, typer.Option(help="Settings from a publication; `mlclip recipes` lists them.")
    ] = None,
    top: TopOption = None,
    loss: Annotated[str | None, typer.Option(help="Loss: bce, focal, asl or apl.")] = None,
    loss_option: Annotated[
        list[str] | None, typer.Option(help="Parameter of the loss, such as gamma_neg=3; repeatable.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    epochs: EpochsOption = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after this many epochs without a better validation mAP.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Weights to keep: of the epoch `best` on validation, or `last` of all.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="Optimizer: adam, sgd or lbfgs.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd.")] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Learning rate: constant, cosine (falls to 0), or onecycle (rises, then falls).")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty on the weights.")] = None,
    batch_size: BatchSizeOption = None,
    alignment_weight: Annotated[
        float | None, typer.Option(help="Weight of the alignment loss; for the head mld.")
    ] = None,
    thresholds: ModeOption = "per_class",
    beta: BetaOption = 1.0,
    seed: SeedOption = None,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Train a head on a frozen encoder, choose its thresholds, and write a run folder."""
    settings: dict[str, Any] = {
        "lr": lr, "epochs": epochs, "patience": patience, "batch_size": batch_size, "loss": loss, "seed": seed,
        "keep": keep, "optimizer": optimizer, "momentum": momentum, "schedule": schedule, "weight_decay": weight_decay,
        "alignment_weight": alignment_weight, "loss_options": numbers(loss_option),
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if value is not None}
    with_settings(TrainConfig(), {name: settings[name] for name in settings if loss or name != "loss_options"})
    options, limits = own_options(context.args), ThresholdConfig(thresholds, beta)
    given_thresholds = is_given(context, "thresholds") or is_given(context, "beta")
    if extend is not None:
        names = ("head", "encoder", "pretrained", "decode", "recipe")
        fixed = [name for name in names if is_given(context, name)] + list(options)
        if fixed:
            raise TrainError(f"--extend takes head, options and encoder from the run: leave --{fixed[0]} out")
        _extend(extend, data, top, settings, limits if given_thresholds else None, cache, out)
        return
    if recipe is not None and is_given(context, "head"):
        raise TrainError(f"--recipe {recipe} has its own head: leave --head out")
    check_head(head)
    folder = out or Path("runs") / (recipe or head)
    check_output(folder, data)
    start, chosen = Recipe(head) if recipe is None else find_recipe(recipe).recipe, dataset(data, top)
    from mlclip.checkpoint import save_run
    from mlclip.heads import find_head
    from mlclip.training.runs import train_run

    training = with_settings(start.training or find_head(start.head).defaults, settings)
    if momentum and training.optimizer != "sgd":
        raise TrainError(f"--momentum belongs to --optimizer sgd, not {training.optimizer}")
    plan = Recipe(start.head, {**start.options, **options}, training, limits if given_thresholds else start.thresholds)
    store = feature_cache(encoder, pretrained, cache, decode)
    with progress("encoding images") as on_features:
        run = train_run(
            chosen, store.encoder, store, plan,
            on_features=on_features, on_epoch=lambda epoch: console.print(epoch.line()),
        )  # fmt: skip
    console.print(metrics_table({f"{folder.name}, val": run.metrics["val"]}))
    record = {"data": recorded(data), "top": top, "recipe": recipe}
    save_run(folder, replace(run, training=run.training | record))
    say(f"wrote {folder}")


def _extend(
    folder: Path,
    data: list[str],
    top: int | None,
    settings: dict[str, Any],
    thresholds: ThresholdConfig | None,
    cache: Path,
    out: Path | None,
) -> None:
    """Add the data's new classes to a run; write a new run folder, by default RUN-extended.

    Settings and thresholds that are not given are the run's.
    """
    target = out or folder.with_name(f"{folder.name}-extended")
    check_output(target, data)
    from mlclip.checkpoint import load_run, save_run
    from mlclip.encoders.features import FeatureCache
    from mlclip.training.extend import extend_run, run_settings

    run = load_run(folder)
    training = with_settings(run_settings(run), settings) if settings else None
    store = FeatureCache(run.encoder.load(), cache)
    with progress("encoding images") as on_features:
        extension = extend_run(
            run, dataset(data, top), store, training=training, thresholds=thresholds,
            on_features=on_features, on_epoch=lambda epoch: console.print(epoch.line()),
        )  # fmt: skip
    sources = {"data": recorded(data), "top": None}
    grown = replace(extension.run, training=extension.run.training | sources | {"extended_from": str(folder)})
    console.print(metrics_table({f"{target.name}, val": grown.metrics["val"]}))
    say(extension.line())
    save_run(target, grown)
    say(f"wrote {target}")


def own_options(words: list[str]) -> dict[str, Any]:
    """A head's own options, `--max-neighbors 36` or `--max-neighbors=36`, as arguments; values are JSON or text."""
    options: dict[str, Any] = {}
    rest = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    while rest:
        name = rest.pop(0)
        if not name.startswith("--") or not rest:
            raise typer.BadParameter(f"{name!r}: a head's own options have the form --name value")
        options[name[2:].replace("-", "_")] = json_or_text(rest.pop(0))
    return options
