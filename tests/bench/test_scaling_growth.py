import math

import numpy as np
import pytest
from mlclip_bench.kit.intervals import geometric_mean, ratio
from mlclip_bench.scaling.growth import break_even, exponent


def rounds_of(slope, sizes=(46, 80, 1000), noise=0.02, count=12, base=1e-3):
    generator = np.random.default_rng(round(slope * 100) + count)
    return {n: base * (n / sizes[0]) ** slope * np.exp(noise * generator.standard_normal(count)) for n in sizes}


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0, 2.0])
def test_known_exponents_come_back(slope):
    found = exponent(rounds_of(slope))
    assert found.value == pytest.approx(slope, abs=0.01)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.02
    assert exponent(rounds_of(slope, noise=0.0)).value == pytest.approx(slope, abs=1e-12)


def test_intervals_hold_what_they_promise():
    generator = np.random.default_rng(3)
    caught = {"latency": 0, "exponent": 0, "ratio": 0}
    for _ in range(200):
        rounds = {n: n**0.3 * np.exp(0.1 * generator.standard_normal(10)) for n in (50, 500)}
        once, growth, times = geometric_mean(rounds[50]), exponent(rounds), ratio(rounds[500], rounds[50])
        caught["latency"] += once.low < 50**0.3 < once.high
        caught["exponent"] += growth.low < 0.3 < growth.high
        caught["ratio"] += times.low < 10**0.3 < times.high
    assert all(count >= 180 for count in caught.values()), f"of 200: {caught}"
    assert all(count < 200 for count in caught.values()), "an interval that never misses is too wide"


def test_one_round_promises_nothing():
    assert math.isinf(geometric_mean([0.5]).high)
    assert math.isinf(geometric_mean([0.5]).relative_half_width)
    assert math.isinf(ratio([0.5], [0.25, 0.25]).high)
    assert ratio([0.5], [0.25, 0.25]).value == pytest.approx(2)


def test_latency_is_a_geometric_mean_with_students_interval():
    found = geometric_mean([1.0, 2.0, 4.0])
    half = 4.302652729749464 * math.log(2) / math.sqrt(3)
    assert found.value == pytest.approx(2)
    assert found.low == pytest.approx(2 * math.exp(-half))
    assert found.high == pytest.approx(2 * math.exp(half))


def test_break_even_is_where_the_lines_meet():
    linear = {n: n / 100 for n in (10, 100, 1000)}
    assert break_even(linear, 5.0).classes == pytest.approx(500)
    assert not break_even(linear, 5.0).extrapolated
    beyond = break_even(linear, 50.0)
    assert beyond.classes == pytest.approx(5000)
    assert beyond.extrapolated
    assert break_even({10: 1.0, 1000: 1.01}, 50.0).classes is None, "it does not grow towards the encoder"
    assert break_even(linear, 0.01).classes == 10, "dearer from the first on"
