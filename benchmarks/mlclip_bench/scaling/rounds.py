"""Rounds in which all points take turns, until each is known well enough or time is up."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlclip_bench.scaling.statistics import relative_half_width

ACCURACY = 0.05
"""A point is stable when the half of its 95 % interval is below this share of its latency."""


@dataclass(frozen=True, order=True)
class Point:
    """What takes a turn.

    Attributes:
        case: key of a case.
        batch: images a call.
    """

    case: str
    batch: int


@dataclass(frozen=True)
class RetryPolicy:
    """How long to measure.

    Attributes:
        turn: seconds of a turn; one call at least.
        fewest: rounds that always run, with all points.
        dear: seconds a call from which a point takes part in every `seldom`-th round only, after the first `fewest`:
            a few slow points would leave no time to know the many quick ones well.
        seldom: see `dear`.
        steady: rounds before a point may count as stable.
        most: rounds after which an unstable point is left as it is.
        until: when to start no further round, in seconds of `clock`.
    """

    turn: float = 0.1
    fewest: int = 3
    dear: float = 0.5
    seldom: int = 4
    steady: int = 5
    most: int = 40
    until: float = float("inf")


def take_turns(
    points: Sequence[Point],
    measure: Callable[[Point, float], Sequence[float]],
    medians: Mapping[Point, list[float]],
    patience: RetryPolicy,
    clock: Callable[[], float],
    record: Callable[[Point, int, Sequence[float]], None],
    on_turn: Callable[[int, int, int], None] = lambda number, done, total: None,
) -> None:
    """Measure in rounds.

    In each round every point that is due and not stable yet has one turn, in an order of its own, so that what the
    machine does meanwhile falls on all alike. A round is not started where time would run out within it, but `fewest`
    are.

    Args:
        points: what to measure.
        measure: runs a point for some seconds; gives the seconds of each call.
        medians: of each point's rounds so far, seconds; from an earlier start, else empty. It is kept up to date.
        patience: how long.
        clock: gives seconds.
        record: called with a point, the number of its round and the calls, as soon as they are there.
        on_turn: called before a turn with the round's number, the turns done in it and all its turns.
    """
    took: dict[Point, float] = {}
    while open_points := [point for point in points if not settled(medians[point], patience)]:
        due = {point: next_round(medians[point], patience) for point in open_points}
        number = min(due.values())
        turns = [point for point in open_points if due[point] == number]  # an interrupted round is completed
        expected = sum(took.get(point, 0.0) for point in turns)
        if number > patience.fewest and clock() + expected > patience.until:
            return
        random.Random(number).shuffle(turns)
        for done, point in enumerate(turns):
            on_turn(number, done, len(turns))
            started = clock()
            calls = measure(point, patience.turn)
            took[point] = clock() - started
            record(point, number, calls)
            medians[point].append(statistics.median(calls))


def next_round(medians: Sequence[float], patience: RetryPolicy) -> int:
    """The number of the round, from 1, in which a point is due."""
    done = len(medians)
    if done < patience.fewest or medians[-1] < patience.dear:
        return done + 1
    return patience.fewest + patience.seldom * (done - patience.fewest + 1)


def settled(medians: Sequence[float], patience: RetryPolicy) -> bool:
    """Whether a point needs no further round."""
    return len(medians) >= patience.most or (
        len(medians) >= patience.steady and relative_half_width(medians) < ACCURACY
    )
