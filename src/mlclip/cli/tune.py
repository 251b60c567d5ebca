"""`mlclip tune`: better thresholds, or better settings, for a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlclip.cli.options import CacheOption, ModeOption, RunArgument, RunDataOption, run_data
from mlclip.console import console, metrics_table, progress, say
from mlclip.encoders import DEFAULT_CACHE
from mlclip.files import check_output
from mlclip.settings import ThresholdConfig, check_seed

if TYPE_CHECKING:
    from mlclip.checkpoint import Run
    from mlclip.promises import Promise
    from mlclip.tune import Trial

Strategy = Literal["bayes", "grid", "ladder"]
Figure = Literal["f", "map"]


def tune(
    run: RunArgument,
    data: RunDataOption = None,
    thresholds: ModeOption = "per_class",
    beta: Annotated[
        float | None, typer.Option(help="Beta of the F-beta to maximise; default: 1, or 2 with --search bayes.")
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Make scores calibrated probabilities; the run selects the same labels."),
    ] = False,
    prevalence: Annotated[
        Path | None,
        typer.Option(
            help="Adjust probabilities to how frequent labels are in a crawl: its rows, .parquet, classified with "
            "--scores by this run, calibrated."
        ),
    ] = None,
    precision: Annotated[
        float | None, typer.Option(help="Choose thresholds that promise this precision, with --confidence.")
    ] = None,
    recall: Annotated[
        float | None, typer.Option(help="Choose thresholds that promise this recall, with --confidence.")
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="How sure a promise is, for each class: it fails in 1 - confidence of all cases.")
    ] = 0.9,
    novelty: Annotated[
        bool, typer.Option("--novelty", help="Let answers say how unlike the training images an image is.")
    ] = False,
    search: Annotated[
        Strategy | None, typer.Option(help="Also search for better settings of the head: bayes, grid or ladder.")
    ] = None,
    trials: Annotated[
        int, typer.Option(help="Maximum number of trials; bayes stops earlier when the ten best agree.")
    ] = 1000,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="Setting to vary instead of the head's list: NAME=LOW:HIGH[:log], NAME=A,B or NAME=[A,B]; repeatable."
        ),
    ] = None,
    figure: Annotated[
        Figure | None,
        typer.Option(help="What to maximise: f (F-beta) or map (mAP); default: f, or map with --search ladder."),
    ] = None,
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled", help="For ladder: labels are incomplete, so vary beta1, with the focus undetached."
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder that a search writes; default: RUN-tuned.")] = None,
    study: Annotated[
        Path | None, typer.Option(help="File that stores the trials; default: trials.jsonl in --out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the search.")] = 0,
    cache: CacheOption = DEFAULT_CACHE,
) -> None:
    """Choose new thresholds for a run. With --search, also train its head with other settings and keep the best.

    With --calibrate, fit probabilities instead, if they improve Brier score and log loss in cross-validation. With
    --precision or --recall, choose thresholds that keep a promise. All of this uses the validation split only. With
    --novelty, compare images with the training images. Repeat an interrupted search to continue it.
    """
    check_seed(seed)
    promise = _promise(precision, recall, confidence)
    trust = calibrate or novelty or promise is not None or prevalence is not None
    if prevalence is not None and (calibrate or promise is not None):
        raise typer.BadParameter("--prevalence goes alone: it needs rows of the calibrated run, and ends its promises")
    if search is not None and trust:
        raise typer.BadParameter("search first; then calibrate the run that it wrote, or choose thresholds for it")
    limits = ThresholdConfig(thresholds, 1.0 if beta is None else beta)
    folder = run if search is None else out or run.with_name(f"{run.name}-tuned")
    check_output(folder, data or ())
    from mlclip.checkpoint import edit_run, load_run, save_run
    from mlclip.encoders.features import FeatureCache
    from mlclip.promises import promise_lines
    from mlclip.training.runs import retune_run
    from mlclip.training.trust import adjust_run, calibrate_run, measure_novelty, promise_run
    from mlclip.tune import Search, tune_run

    def change(loaded: Run) -> Run:
        data_set, store = run_data(loaded.training, data), FeatureCache(loaded.encoder.load(), cache)
        tuned = loaded if trust else retune_run(loaded, data_set, store, limits)
        if novelty:
            tuned = measure_novelty(tuned, data_set, store)
        if calibrate:
            tuned, line = calibrate_run(tuned, data_set, store)
            say(line)
        if prevalence is not None:
            tuned, line = adjust_run(tuned, prevalence, data_set)
            say(line)
        if promise is not None:
            tuned = promise_run(tuned, data_set, store, promise)
            for line in promise_lines(tuned.training["promise"]):
                say(line)
        console.print(metrics_table({f"{run.name}, val": tuned.metrics.get("val", {})}))
        return tuned

    if search is None:
        edit_run(run, change)
        return
    loaded = load_run(run)
    data_set, store = run_data(loaded.training, data), FeatureCache(loaded.encoder.load(), cache)
    figure = figure or ("map" if search == "ladder" else "f")
    recall_weight = (2.0 if search == "bayes" else 1.0) if beta is None else beta
    how = Search(search, trials, figure, recall_weight, seed, tuple(vary or ()), unlabelled)
    limits = replace(limits, beta=how.beta)
    with progress("trials") as on_trials, progress("encoding images") as on_features:
        tuned = tune_run(
            loaded, data_set, store, how, study or folder / "trials.jsonl", limits,
            on_trial=_teller(on_trials, trials), on_features=on_features,
        )  # fmt: skip
    save_run(folder, tuned)
    before = retune_run(loaded, data_set, store, limits)
    console.print(
        metrics_table({f"{run.name}, val": before.metrics["val"], f"{folder.name}, val": tuned.metrics["val"]})
    )
    say(f"{tuned.training['search']['trials']:,} trials; wrote {folder}")


def _promise(precision: float | None, recall: float | None, confidence: float) -> Promise | None:
    from mlclip.promises import Promise

    if precision is not None and recall is not None:
        raise typer.BadParameter("a threshold promises --precision or --recall, not both")
    level = recall if precision is None else precision
    if not 0 < (0.5 if level is None else level) < 1 or not 0 < confidence < 1:
        raise typer.BadParameter("precision, recall and confidence lie between 0 and 1")
    return None if level is None else Promise("recall" if precision is None else "precision", level, confidence)


def _teller(on_trials: Any, limit: int) -> Any:
    best = -1.0

    def tell(trial: Trial) -> None:
        nonlocal best
        if trial.score > best:
            best = trial.score
            settings = "  ".join(f"{name} {_short(value)}" for name, value in trial.settings.items())
            line = f"trial {trial.number:3d}  {trial.score:.4f}  {settings}"
            say(line)
        on_trials(trial.number, limit)

    return tell


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
