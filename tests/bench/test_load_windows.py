"""Windows: perf_analyzer's percentiles and its rule of stability."""

import json

import numpy as np
import pytest
from mlclip_bench.load.windows import Histogram, Window, holds, is_settled, is_stable, merge


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
@pytest.mark.parametrize("percent", [50, 90, 95, 99])
def test_a_percentile_is_the_value_at_perf_analyzers_rank_within_half_a_percent(count, percent):
    latencies = np.random.default_rng(count).lognormal(-3, 0.8, count)
    histogram = Histogram()
    for latency in latencies:
        histogram.add(latency)
    rank = int(percent / 100 * (count - 1) + 0.5)
    assert histogram.percentile(percent) == pytest.approx(sorted(latencies)[rank], rel=0.005)


def test_latencies_below_a_microsecond_are_counted():
    histogram = Histogram()
    assert histogram.percentile(99) is None
    histogram.add(0.0)
    assert (histogram.total(), histogram.percentile(50)) == (1, 1e-6)


@pytest.mark.parametrize(
    ("latencies", "stable"),
    [
        ((0.100, 0.105, 0.110), True),
        ((0.100, 0.105, 0.111), False),
        ((0.111, 0.105, 0.100), False),
        ((0.300, 0.100, 0.105, 0.110), True),
        ((0.100, 0.105, 0.110, 0.300), False),
        ((0.100, 0.100), False),
    ],
)
def test_three_windows_in_a_row_must_agree_in_latency(make_window, latencies, stable):
    windows = [make_window([latency] * 20) for latency in latencies]
    assert is_stable(windows) is stable


@pytest.mark.parametrize(("counts", "stable"), [((100, 105, 110), True), ((100, 105, 111), False), ((0, 0, 0), False)])
def test_three_windows_in_a_row_must_agree_in_throughput(make_window, counts, stable):
    assert is_stable([make_window([0.1] * count) for count in counts]) is stable


def test_throughput_is_a_second_and_not_a_window(make_window):
    windows = [make_window([0.1] * count, seconds=count / 10) for count in (100, 150, 200)]
    assert is_stable(windows)


def test_windows_merge_into_one(make_window):
    one = merge(
        [make_window([0.1, 0.2], 1.0, {"server": 1}, lag=0.01), make_window([0.3], 2.0, {"server": 2, "deadline": 1})]
    )
    assert (one.seconds, one.answered, one.throughput) == (3.0, 3, 1.0)
    assert one.mean_latency == pytest.approx(0.2)
    assert one.errors == {"server": 3, "deadline": 1}
    assert one.lag_sum == pytest.approx(0.02)
    assert one.histogram.percentile(50) == pytest.approx(0.2, rel=0.005)


def test_a_window_comes_back_from_json(make_window):
    window = make_window([0.1, 0.1, 0.25], 1.5, {"server": 2}, lag=0.001)
    back = Window.from_dict(json.loads(json.dumps(window.to_dict())))
    assert back == window
    assert back.histogram == window.histogram


def test_a_level_is_settled_once_stable_or_broken(make_window):
    assert not is_settled([make_window([latency] * 10) for latency in (0.3, 0.5, 0.9)])
    assert is_settled([make_window([0.1] * 10)] * 3)
    assert is_settled([make_window([], errors={"unavailable": 50})])
    assert not is_settled([make_window([0.1], errors={"server": 50})])
    assert not is_settled([make_window([])]), "silent, but perhaps only slow"


def test_a_level_of_the_open_loop_is_settled_once_three_windows_say_the_same_of_the_target(make_window):
    rising = [make_window([latency] * 10) for latency in (0.3, 0.5, 0.9)]
    assert not is_settled(rising, 10.0, 0.4), "the first window held it"
    assert is_settled(rising, 10.0, 0.2)
    assert is_settled(rising, 10.0, 1.0)
    assert not is_settled(rising[:2], 10.0, 0.2)
    assert not is_settled(rising, 10.0, None)


def test_a_window_holds_in_time_without_errors_and_when_it_keeps_up(make_window):
    assert holds(make_window([0.1] * 100), 100.0, 0.1005)
    assert not holds(make_window([0.1] * 98 + [0.3] * 2), 100.0, 0.2)
    assert holds(make_window([0.1] * 99 + [0.3]), 100.0, 0.2)
    assert not holds(make_window([0.1] * 90), 100.0, 0.2)
    assert not holds(make_window([0.1] * 100, errors={"server": 1}), 100.0, 0.2)
    assert not holds(make_window([]), 1.0, 0.2)
