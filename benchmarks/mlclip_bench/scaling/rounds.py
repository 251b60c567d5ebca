"""Rounds in which all points take turns, until each is known well enough or time is up."""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlclip_bench.kit.intervals import geometric_mean

ACCURACY = 0.05  # a point is stable when half of its 95 % interval is below this share of its latency


@dataclass(frozen=True, order=True)
class Point:
    """What takes a turn: the key of a case, and the images per call."""

    case: str
    batch: int


@dataclass(frozen=True)
class Schedule:
    """How long to measure."""

    turn: float = 0.1  # seconds per turn; at least one call
    fewest: int = 3  # rounds that always run, with all points
    # seconds per call from which a point takes part in every `slow_every`-th round only, after the first `fewest`: a
    # few slow points would leave no time to know the many quick ones well
    slow: float = 0.5
    slow_every: int = 4  # see `slow`
    steady: int = 5  # rounds before a point may count as stable
    most: int = 40  # rounds after which an unstable point is given up
    until: float = float("inf")  # when to start no further round, in seconds of `clock`

    def next_round(self, medians: Sequence[float]) -> int:
        """The number of the round, from 1, in which a point with these medians is due."""
        done = len(medians)
        if done < self.fewest or medians[-1] < self.slow:
            return done + 1
        return self.fewest + self.slow_every * (done - self.fewest + 1)

    def settled(self, medians: Sequence[float]) -> bool:
        """Whether a point with these medians needs no further round."""
        return len(medians) >= self.most or (
            len(medians) >= self.steady and geometric_mean(medians).relative_half_width < ACCURACY
        )


def take_turns(
    points: Sequence[Point],
    measure: Callable[[Point, float], Sequence[float]],
    medians: Mapping[Point, list[float]],
    schedule: Schedule,
    clock: Callable[[], float],
    record: Callable[[Point, int, Sequence[float]], None],
    on_turn: Callable[[str, int, int], None] = lambda title, done, total: None,
) -> None:
    """Measure points in rounds; `measure` runs one for some seconds and gives the seconds of each call.

    In each round, every point that is due and not stable yet has one turn. Each round has its own order, so that what
    the machine does meanwhile affects all alike. After the first `fewest`, a round starts only if it can end in time.

    `medians` of the rounds that each point has behind it, in seconds, are kept up to date. `record` is called with a
    point, the number of its round and the calls, after each turn; `on_turn` before it with the round, its turns done
    and in all.
    """
    took: dict[Point, float] = {}
    while open_points := [point for point in points if not schedule.settled(medians[point])]:
        due = {point: schedule.next_round(medians[point]) for point in open_points}
        number = min(due.values())
        turns = [point for point in open_points if due[point] == number]  # an interrupted round is completed
        expected = sum(took.get(point, 0.0) for point in turns)
        if number > schedule.fewest and clock() + expected > schedule.until:
            return
        random.Random(number).shuffle(turns)
        for done, point in enumerate(turns):
            on_turn(f"round {number}", done, len(turns))
            started = clock()
            calls = measure(point, schedule.turn)
            took[point] = clock() - started
            record(point, number, calls)
            medians[point].append(statistics.median(calls))
