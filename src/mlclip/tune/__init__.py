"""Tuning: a run's head is trained with other settings, and the best on the validation split is kept.

::

    tuned = tune_run(run, dataset, cache, Search("bayes"), Path("runs/neighbors-tuned/trials.jsonl"))

The strategies `bayes`, `grid` and `ladder` are those of documents 002, 000 and 001.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from mlclip.checkpoint import Run
from mlclip.data import Dataset
from mlclip.data.dataset import Progress, quiet
from mlclip.encoders.features import FeatureCache
from mlclip.errors import TrainError
from mlclip.settings import ThresholdConfig, TrainConfig, check_number, check_seed
from mlclip.training.runs import train_run
from mlclip.tune.bayes import optimise
from mlclip.tune.grid import try_all
from mlclip.tune.judge import Figure, Judge
from mlclip.tune.ladder import climb, rungs
from mlclip.tune.space import apply, base_recipe, space_of
from mlclip.tune.study import Study, Trial

__all__ = ["STRATEGIES", "Search", "Study", "Trial", "tune_run"]

Strategy = Literal["bayes", "grid", "ladder"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Search:
    """How settings are searched, in `trials` at the most."""

    by: Strategy = "bayes"
    trials: int = 1000
    figure: Figure = "f"  # what is maximised: `f`, micro F-beta at its best global threshold, or `map`, macro mAP
    beta: float = 2.0  # recall counts beta times as much as precision; document 002 searches by F2
    seed: int = 0  # of the search; trainings keep the run's own seed
    vary: tuple[str, ...] = ()  # what is varied instead of what the head declares; see `parse_range`
    unlabelled: bool = False  # for the ladder: some positives are unlabelled

    def __post_init__(self) -> None:
        if self.by not in STRATEGIES or self.figure not in get_args(Figure):
            raise TrainError(f"search by {', '.join(STRATEGIES)} for f or map, not by {self.by} for {self.figure}")
        check_number("trials", self.trials, 1, whole=True)
        check_number("beta", self.beta, 0, above=True)
        check_seed(self.seed)


def tune_run(
    run: Run,
    dataset: Dataset,
    cache: FeatureCache,
    search: Search,
    study: Path,
    thresholds: ThresholdConfig | None = None,
    *,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    on_features: Progress = quiet,
) -> Run:
    """Search for better settings of a run's head, and train it with the best; the test split is not used.

    The dataset is what the run was trained on. Settings that are not varied stay as they are. Trials go to the file
    `study`, from which an interrupted search resumes. By default thresholds maximise the search's F-beta. In the tuned
    run, `training["search"]` records the search and its best settings.

    Raises TrainError if nothing can be searched, or no settings worked; ResultsError if `study` is another search's.
    """
    base = base_recipe(run)
    recipe = replace(base, thresholds=thresholds or ThresholdConfig(beta=search.beta))
    data = dataset.with_classes(run.labels)
    space = None if search.by == "ladder" else space_of(run, search.vary)
    judge = Judge(recipe, data, cache.encoder, cache, search.figure, search.beta, on_features)
    varied = rungs(recipe, search.unlabelled) if space is None else {name: asdict(v) for name, v in space.items()}
    about = {
        "search": search.by, "figure": search.figure, "beta": search.beta, "seed": search.seed, "space": varied,
        "head": run.head_name, "options": recipe.options, "training": asdict(base.training or TrainConfig()),
        "data": judge.fingerprint(),
    }  # fmt: skip
    trials = Study(study, about, judge, on_trial)
    if space is None:
        climb(trials, recipe, search.trials, search.unlabelled)
    elif search.by == "grid":
        try_all(trials, space, search.trials, search.seed)
    else:
        optimise(trials, space, search.trials, search.seed)
    best = trials.best
    tuned = train_run(data, cache.encoder, cache, apply(recipe, best.settings), on_features=on_features)
    found = {"by": search.by, "figure": search.figure, "beta": search.beta, "trials": len(trials.trials)}
    kept = {name: run.training[name] for name in ("data", "top") if name in run.training}
    summary = found | {"score": best.score, "settings": best.settings}
    return replace(tuned, training=tuned.training | kept | {"search": summary})
