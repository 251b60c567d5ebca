import numpy as np
import pytest
from mlclip_bench.cli import app
from mlclip_bench.scaling.agreement import compare
from mlclip_bench.scaling.derive import Derived
from mlclip_bench.scaling.results import Results
from mlclip_bench.scaling.rounds import Point
from typer.testing import CliRunner

from mlclip.errors import ResultsError

SIZES = (46, 80, 1000)


@pytest.fixture
def write(tmp_path):
    """Write a run of one series whose latency is factor * N**slope, with noise of 2 %."""

    def make(name, *, factor=1.0, slope=0.5, batch=8, **beyond):
        results, noise = Results(tmp_path / name), np.random.default_rng(len(name))
        cases = {str(n): f"head-n{n}" for n in SIZES}
        series = [{"title": "head", "cases": cases}]
        results.start({"batches": [batch], "series": series}, {}, resume=False)
        for number in range(1, 13):
            for n in SIZES:
                seconds = 1e-3 * factor * beyond.get(f"n{n}", 1.0) * n**slope * np.exp(0.02 * noise.standard_normal())
                results.add_round(Point(f"head-n{n}", batch), number, [float(seconds)])
        return tmp_path / name

    return make


def agreement(one, two):
    return compare(Derived(Results(one)), Derived(Results(two)))


def test_a_machine_that_was_slower_as_a_whole_does_not_part_two_runs(write):
    found = agreement(write("one"), write("second", factor=1.3))
    assert found.factor == pytest.approx(1.3, rel=0.02)
    assert (found.points, found.apart, found.growths, found.grown_apart) == (3, {}, 3, {})


def test_a_point_that_took_longer_by_itself_is_named_with_what_grew(write):
    found = agreement(write("one"), write("second", factor=1.3, n1000=1.5))
    assert found.apart == {"head-n1000, batch 8": pytest.approx(1.5, rel=0.05)}
    assert set(found.grown_apart) == {"head, batch 8, exponent", "head, batch 8, 1000/46"}


def test_the_command_says_it_in_lines(write):
    done = CliRunner().invoke(app, ["agree", str(write("one")), str(write("second", n1000=1.5))])
    assert "2 of 3 latencies agree within their intervals" in done.output
    assert "head-n1000, batch 8: 1." in done.output
    assert "1 of 3 exponents and ratios of growth agree as they are" in done.output


def test_runs_of_other_things_are_refused(write):
    with pytest.raises(ResultsError, match="no measured point in common"):
        agreement(write("one"), write("second", batch=1))
