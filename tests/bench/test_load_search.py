"""The search for the highest rate, the sweep around it, and the store that it fills."""

import pytest
from mlclip_bench.load.define import Closed, LoadError, Open
from mlclip_bench.load.derive import rows_of
from mlclip_bench.load.report import say_bracket
from mlclip_bench.load.search import MOST_PROBES, Verdict, bracket, judge, next_rate
from mlclip_bench.load.sweep import Plan, Results, run_plan

from mlclip.errors import ResultsError

TARGET = 0.2


@pytest.fixture
def probe(make_window, make_line):
    """Make the row of a rate whose latency is always the same."""

    def make(rate, latency, *, others=None, share=1.0, errors=None, purpose="search"):
        count = max(1, round(share * rate * 5))
        windows = [
            make_window([each] * count, count / (share * rate), errors)
            for each in (latency, others or latency, latency)
        ]
        return rows_of([make_line(Open(rate), windows, purpose=purpose)])[0]

    return make


def queue(rate, most=41.0):
    """Latency of a queue whose server does `most` a second: 50 ms alone, ever more towards `most`."""
    return 0.05 / (1 - rate / most) if rate < most else 60.0


def test_a_rate_holds_when_it_is_in_time_without_errors_and_keeps_up(probe):
    assert judge(probe(1, 0.19), TARGET) is Verdict.HOLDS
    assert judge(probe(1, 0.21), TARGET) is Verdict.OVER
    assert judge(probe(1, 0.19, errors={"server": 1}), TARGET) is Verdict.ERRORS
    assert judge(probe(100, 0.19, share=0.95), TARGET) is Verdict.HOLDS
    assert judge(probe(100, 0.19, share=0.85), TARGET) is Verdict.BEHIND
    assert judge(probe(100, 0.1, others=0.21), TARGET) is Verdict.OVER, "in each window"


def test_a_rate_far_below_the_target_holds_however_much_its_latency_varies(probe):
    row = probe(100, 0.05, others=0.02)
    assert not row.stable
    assert judge(row, TARGET) is Verdict.HOLDS


@pytest.mark.parametrize("start", [1.0, 10.0, 28.0, 35.0, 200.0])
def test_bisection_closes_in_on_the_highest_rate_from_anywhere(probe, start):
    """With 50 / (1 - r/41) ms, 200 ms are reached at 30.75 images/s."""
    rows = []
    while (rate := next_rate(rows, TARGET, start)) is not None:
        assert rate not in [row.level for row in rows], "measured twice"
        rows.append(probe(rate, queue(rate)))
    found = bracket(rows, TARGET)
    if len(rows) < MOST_PROBES:
        assert found.low.level <= 30.75 * 1.005 and found.high.level >= 30.75 * 0.995
        assert found.high.level <= found.low.level * 1.05 + 1e-9
    else:
        assert start == 1.0, "so far below that ten probes do not suffice"
        assert found.low is not None


def test_known_rates_of_the_sweep_narrow_the_search(probe):
    rows = [probe(rate, queue(rate), purpose="sweep") for rate in (10.0, 28.0, 32.0, 36.0)]
    assert next_rate(rows, TARGET, 25.0) == 30.0


def test_a_target_below_the_fastest_answer_is_given_up(probe):
    rows = []
    while (rate := next_rate(rows, 0.01, 20.0)) is not None:
        rows.append(probe(rate, queue(rate)))
    assert [row.level for row in rows] == [20.0, 10.0, 5.0, 2.5, 1.25, 0.625]
    assert bracket(rows, 0.01).low is None
    assert say_bracket(bracket(rows, 0.01), 0.01).startswith("No rate was found that holds")


def test_a_rate_that_falls_behind_bounds_the_search_and_is_named(probe):
    rows = [probe(10.0, 0.1), probe(20.0, 0.1, share=0.8)]
    assert next_rate(rows, TARGET, 10.0) == 15.0
    assert "20 images/s (falls behind, p99 100 ms) did not" in say_bracket(bracket(rows, TARGET), TARGET)


def test_a_lower_rate_that_failed_is_said_to_contradict(probe):
    rows = [probe(10.0, 0.3), probe(20.0, 0.1), probe(21.0, 0.3)]
    found = bracket(rows, TARGET)
    assert (found.low.level, found.high.level) == (20.0, 21.0)
    assert [row.level for row in found.contradictions] == [10.0]
    assert "10 images/s (over the target, p99 299 ms) did not hold either" in say_bracket(found, TARGET)
    assert next_rate(rows, TARGET, 10.0) is None


@pytest.fixture
def measure(make_window, make_line):
    """Measures nothing, but says what a queue would."""

    class Measure:
        def __init__(self):
            self.loads = []

        def __call__(self, load, purpose):
            self.loads.append(load)
            if isinstance(load, Closed):
                windows = [make_window([0.1] * min(200, 50 * load.concurrency), 5.0)] * 3
            else:
                windows = [make_window([queue(load.rate)] * round(5 * load.rate), 5.0)] * 3
            return make_line(load, windows, purpose=purpose)

    return Measure()


def run(plan, folder, measure):
    rows = []
    run_plan(plan, Results(folder), measure, rows.append)
    return rows


def test_a_plan_sweeps_then_searches_by_what_the_closed_loop_reached(measure, tmp_path):
    rows = run(Plan((1, 2, 4, 8), None, TARGET), tmp_path, measure)
    swept = [Closed(1), Closed(2), Closed(4), Closed(8), Open(10.0), Open(20.0), Open(30.0), Open(36.0)]
    assert [row.load for row in rows if row.purpose == "sweep"] == swept
    assert {row.level for row in rows if row.purpose == "search"} == {33.0, 31.5}
    assert [row.load for row in rows] == measure.loads


def test_a_plan_without_a_target_only_sweeps(measure, tmp_path):
    assert [row.load for row in run(Plan((2,), (5.0, 7.0), None), tmp_path, measure)] == [
        Closed(2),
        Open(5.0),
        Open(7.0),
    ]


def test_what_was_stopped_is_gone_on_with(measure, tmp_path):
    def stopped(load, purpose):
        if load == Open(20.0):
            raise KeyboardInterrupt
        return measure(load, purpose)

    plan = Plan((1, 4), (10.0, 20.0), TARGET)
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path, stopped)
    assert [Results.key(line) for line in Results(tmp_path).lines()] == [("closed", 1), ("closed", 4), ("open", 10.0)]
    first = list(measure.loads)
    rows = run(plan, tmp_path, measure)
    assert rows[0].load == Open(20.0)
    assert not set(first) & {row.load for row in rows}


def test_a_server_without_an_answer_ends_the_plan_with_its_reason_and_keeps_the_line(measure, tmp_path, make_window):
    def silent(load, purpose):
        line = measure(load, purpose)
        line["windows"] = [make_window([], 5.0, {"unavailable": 9}).to_dict()]
        line["messages"] = {"unavailable": "no server answers"}
        return line

    with pytest.raises(LoadError, match="no answer at concurrency 1: unavailable: no server answers"):
        run(Plan((1, 2), None, TARGET), tmp_path, silent)
    assert len(Results(tmp_path).lines()) == 1


def test_levels_of_another_setting_are_refused(measure, tmp_path):
    results, line = Results(tmp_path), measure(Closed(1), "sweep")
    results.append(line)
    results.check(line["setting"])
    with pytest.raises(ResultsError, match="measured with another images, questions: name another folder"):
        results.check(line["setting"] | {"images": {"count": 1}, "questions": {}})
