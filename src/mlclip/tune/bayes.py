"""Bayesian optimisation: a Gaussian process, updated by each trial, proposes the next settings.

Document 002 (Bynke 2022, "Multi-label image classification with language-image models", 4.2) starts with ten random
trials and stops when the ten best F2 lie within 0.1 percentage points, or after 1000 trials. The document used
scikit-optimize; here it is optuna's `GPSampler`.
"""

import math
from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mlclip.heads import Choice, Range
from mlclip.tune.space import Settings, Space, fold, unfold
from mlclip.tune.study import Study, Trial

STARTS = 10
BEST = 10
WINDOW = 0.001


def optimise(study: Study, space: Space, limit: int, seed: int) -> None:
    """Make trials until the best ones agree, `limit` is reached, or every point of a finite space was tried.

    The next point depends on the trials so far and the seed alone, so an interrupted search continues as if it had not
    been interrupted.
    """
    finite = all(isinstance(values, Choice) for values in space.values())
    points = math.prod(len(values.values) for values in space.values() if isinstance(values, Choice))
    while len(study.trials) < limit and not settled(study.trials):
        if finite and len({repr(trial.settings) for trial in study.trials}) == points:
            break
        study.measure(propose(space, study.trials, seed))


def settled(trials: Sequence[Trial]) -> bool:
    """Whether the ten best scores lie within 0.1 percentage points."""
    best = sorted((trial.score for trial in trials), reverse=True)[:BEST]
    return len(trials) >= STARTS and best[0] - best[-1] <= WINDOW


def propose(space: Space, trials: Sequence[Trial], seed: int) -> Settings:
    """The settings to try next: random in the first ten trials, then proposed by a Gaussian process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(values) for name, values in space.items()}
    # a choice goes in as its position, since optuna's categories are plain values only
    choices = {name: values.values for name, values in space.items() if isinstance(values, Choice)}
    sampler = optuna.samplers.GPSampler(seed=seed * 1_000_003 + len(trials), n_startup_trials=STARTS)
    process = optuna.create_study(sampler=sampler, direction="maximize")
    for trial in trials:
        flat = unfold(trial.settings, space)
        params = {name: choices[name].index(flat[name]) if name in choices else flat[name] for name in space}
        done = optuna.trial.create_trial(params=params, distributions=distributions, value=trial.score)
        process.add_trial(done)
    asked = process.ask(distributions).params
    return fold({name: choices[name][asked[name]] if name in choices else asked[name] for name in space})


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(tuple(range(len(values.values))))
    if values.integer:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)
