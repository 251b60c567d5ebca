import itertools

import pytest
from mlclip_bench.scaling.rounds import Point, Schedule, take_turns


class Machine:
    """A machine with a clock of its own: a call of a point takes what `costs` says, in turn."""

    def __init__(self, costs):
        self.now, self.turns = 0.0, []
        self.costs = {point: itertools.cycle(costs) for point, costs in costs.items()}

    def measure(self, point, seconds):
        took = next(self.costs[point])
        self.now += took
        self.turns.append(point)
        return [took]


STEADY, JUMPY = Point("steady", 8), Point("jumpy", 8)
COSTS = {STEADY: [0.1], JUMPY: [0.1, 0.3]}


def run(machine, schedule, medians=None, points=(STEADY, JUMPY), **more):
    medians = {point: [] for point in points} if medians is None else medians
    recorded = []
    take_turns(
        points, machine.measure, medians, schedule, lambda: machine.now,
        lambda point, number, calls: recorded.append((point, number)), **more,
    )  # fmt: skip
    return medians, recorded


def test_what_is_stable_stops_and_the_rest_goes_on():
    medians, recorded = run(Machine(COSTS), Schedule(most=20))
    assert len(medians[STEADY]) == 5
    assert len(medians[JUMPY]) == 20
    assert recorded.count((JUMPY, 20)) == 1


def test_all_points_take_a_turn_in_each_round():
    machine = Machine({Point(name, 1): [0.1] for name in "abcdef"})
    run(machine, Schedule(), points=list(machine.costs))
    rounds = [machine.turns[start : start + 6] for start in range(0, 30, 6)]
    assert all(set(turns) == set(machine.costs) for turns in rounds)
    assert len({tuple(turns) for turns in rounds}) > 1, "the order changes"


def test_no_round_starts_that_would_end_too_late_but_the_first_three():
    medians, _ = run(Machine(COSTS), Schedule(until=1.3))
    assert [len(rounds) for rounds in medians.values()] == [4, 4], "a fifth one would end after 1.3 s"
    medians, _ = run(Machine(COSTS), Schedule(until=0.0))
    assert [len(rounds) for rounds in medians.values()] == [3, 3]


def test_an_interrupted_run_goes_on_where_it_stopped():
    machine, medians = Machine(COSTS), {STEADY: [], JUMPY: []}

    def interrupt(title, done, total):
        if (title, done) == ("round 3", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(machine, Schedule(), medians, on_turn=interrupt)
    assert sorted(len(rounds) for rounds in medians.values()) == [2, 3]
    _, recorded = run(machine, Schedule(most=6), medians)
    assert [number for _, number in recorded][:3] == [3, 4, 4], "the interrupted round is completed first"
    assert [len(rounds) for rounds in medians.values()] == [5, 6]


def test_slow_points_take_part_in_every_fourth_round_after_the_third():
    costs = {Point("quick", 1): [0.1, 0.4], Point("slow", 1): [2.0, 3.0]}
    _, recorded = run(Machine(costs), Schedule(most=12), points=list(costs))
    assert [number for point, number in recorded if point.case == "quick"] == list(range(1, 13))
    assert [number for point, number in recorded if point.case == "slow"][:6] == [1, 2, 3, 7, 11, 15]


def test_a_slow_point_goes_on_in_its_own_round_after_an_interruption():
    quick, slow = Point("quick", 1), Point("slow", 1)
    machine, medians = Machine({quick: [0.1, 0.4], slow: [2.0, 3.0]}), {quick: [0.1, 0.4] * 4, slow: [2.0, 3.0, 2.0]}
    _, recorded = run(machine, Schedule(most=10), medians, points=[quick, slow])
    assert recorded[:3] == [(slow, 7), (quick, 9), (quick, 10)]
