"""Bayesian optimisation: a Gaussian process guesses where better settings lie, and each trial teaches it.

Document 002 (Bynke 2022, "Multi-label image classification with language-image models", 4.2) starts with ten random
trials and stops when the ten best F2 lie within 0.1 percentage points, or after 1000 trials. The document used
scikit-optimize; here it is optuna's `GPSampler`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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

    The next point follows from the trials so far and the seed alone, so a search that was interrupted goes on as if it
    had not been.
    """
    finite = all(isinstance(values, Choice) for values in space.values())
    points = math.prod(len(values.values) for values in space.values() if isinstance(values, Choice))
    while len(study.trials) < limit and not settled(study.trials):
        if finite and len({repr(trial.settings) for trial in study.trials}) == points:
            break
        study.measure(propose(space, study.trials, seed))


def settled(trials: Sequence[Trial]) -> bool:
    """Whether the ten best scores lie within 0.1 points."""
    best = sorted((trial.score for trial in trials), reverse=True)[:BEST]
    return len(trials) >= STARTS and best[0] - best[-1] <= WINDOW


def propose(space: Space, trials: Sequence[Trial], seed: int) -> Settings:
    """The settings to try next: at random while there are fewer than ten trials, then where a Gaussian process says."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(values) for name, values in space.items()}
    sampler = optuna.samplers.GPSampler(seed=seed * 1_000_003 + len(trials), n_startup_trials=STARTS)
    process = optuna.create_study(sampler=sampler, direction="maximize")
    process.add_trials(
        [
            optuna.trial.create_trial(
                params=_positions(space, unfold(trial.settings, space)), distributions=distributions, value=trial.score
            )
            for trial in trials
        ]
    )
    return fold(_values(space, process.ask(distributions).params))


def _distribution(values: Range | Choice) -> BaseDistribution:
    if isinstance(values, Choice):
        return CategoricalDistribution(tuple(range(len(values.values))))
    if values.integer:
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _positions(space: Space, flat: Settings) -> Settings:
    """Choices as positions, since optuna's categories are plain values only."""
    return {name: _position(space[name], value) for name, value in flat.items()}


def _position(values: Range | Choice, value: Any) -> Any:
    return values.values.index(value) if isinstance(values, Choice) else value


def _values(space: Space, positions: Settings) -> Settings:
    return {
        name: values.values[positions[name]] if isinstance(values, Choice) else positions[name]
        for name, values in space.items()
    }
