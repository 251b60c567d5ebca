"""Sending load, in virtual time: every figure is exact, and nothing waits."""

import asyncio

import numpy as np
import pytest
from mlclip_bench.load.define import Closed, Open, Pace
from mlclip_bench.load.generate import generate, poisson_moments
from mlclip_bench.load.windows import is_stable, merge
from scipy import stats

PACE = Pace(window=10.0, requests=1, arrivals=1, warmup=1.0, windows=5)
IMAGES = (b"a", b"b", b"c")


async def nothing():
    return None


def run_level(run_virtual, load, make_ask, pace=PACE, **options):
    async def main():
        return await generate(load, make_ask(), IMAGES, pace, 0, options.pop("observe", nothing), **options)

    return run_virtual(main())


def one_at_a_time(seconds):
    """A server that works on one image at once."""

    def make():
        busy = asyncio.Lock()

        async def ask(image):
            async with busy:
                await asyncio.sleep(seconds)

        return ask

    return make


@pytest.mark.parametrize("concurrency", [1, 4])
def test_askers_wait_for_each_other_at_a_server_that_works_on_one_image(run_virtual, concurrency):
    measured = run_level(run_virtual, Closed(concurrency), one_at_a_time(0.1))
    assert len(measured.windows) == 3 and is_stable(measured.windows)
    total = merge(measured.windows)
    assert total.throughput == pytest.approx(10, rel=0.01)
    assert total.mean_latency == pytest.approx(0.1 * concurrency)
    assert measured.unanswered == concurrency


def test_images_come_at_the_rate_whatever_the_server_does(run_virtual):
    measured = run_level(run_virtual, Open(50.0), lambda: lambda image: asyncio.sleep(0.02))
    assert [window.answered for window in measured.windows] == pytest.approx([500] * 3, abs=2)
    assert merge(measured.windows).mean_latency == pytest.approx(0.02)


def test_latency_counts_from_the_intended_moment_when_the_server_stalls(run_virtual):
    """It answers nothing from second 15 to 18: whatever came then waits for the rest of the stall."""

    def make():
        loop = asyncio.get_running_loop()

        async def ask(image):
            await asyncio.sleep(max(0.001, 18.0 - loop.time() if loop.time() >= 15 else 0.0))

        return ask

    first, second, *_ = run_level(run_virtual, Open(100.0), make).windows
    assert first.histogram.percentile(99) == pytest.approx(0.001, rel=0.01)
    assert second.histogram.percentile(100) == pytest.approx(3.0, rel=0.02)
    assert second.latency_sum == pytest.approx(300 * 1.5 + 700 * 0.001, rel=0.05)


def test_a_generator_that_hangs_shows_as_latency_and_as_lag(run_virtual):
    """The process stands still for 2 s: a stopwatch started at sending would see nothing of it."""

    def make():
        loop, hung = asyncio.get_running_loop(), []

        async def ask(image):
            if loop.time() > 15 and not hung:
                loop.now += 2.0
                hung.append(True)
            await asyncio.sleep(0.001)

        return ask

    first, second, *_ = run_level(run_virtual, Open(100.0), make).windows
    assert first.lag_sum == pytest.approx(0.0, abs=1e-6)
    assert second.lag_sum == pytest.approx(200 * 1.0, rel=0.1)
    assert second.latency_sum == pytest.approx(200 * 1.0 + 1000 * 0.001, rel=0.1)
    assert second.histogram.percentile(100) == pytest.approx(2.0, rel=0.02)


def test_more_than_the_server_can_do_is_never_stable_and_leaves_images_unanswered(run_virtual):
    measured = run_level(run_virtual, Open(20.0), one_at_a_time(0.1))
    assert len(measured.windows) == PACE.windows
    assert not is_stable(measured.windows)
    assert merge(measured.windows).throughput == pytest.approx(10, rel=0.01)
    assert measured.unanswered == pytest.approx(51 * 20 - 51 * 10, rel=0.05)


def test_a_rate_over_the_target_is_given_up_after_three_windows(run_virtual):
    measured = run_level(run_virtual, Open(20.0), one_at_a_time(0.1), target=0.2)
    assert len(measured.windows) == 3


def test_the_target_ends_no_closed_loop(run_virtual):
    def make():
        calls = iter(range(10**6))
        return lambda image: asyncio.sleep(0.5 + 0.01 * next(calls))

    assert len(run_level(run_virtual, Closed(1), make, target=0.2).windows) == PACE.windows


def test_errors_are_counted_by_kind_and_have_no_latency(run_virtual):
    def make():
        calls = iter(range(10**6))

        async def ask(image):
            await asyncio.sleep(0.1)
            return ("deadline", None, "server", None)[next(calls) % 4]

        return ask

    total = merge(run_level(run_virtual, Closed(1), make).windows)
    assert total.answered == pytest.approx(150, abs=2)
    assert total.errors == {"deadline": pytest.approx(75, abs=1), "server": pytest.approx(75, abs=1)}
    assert total.mean_latency == pytest.approx(0.1)


def test_a_dead_server_ends_the_level_at_once(run_virtual):
    async def refused(image):
        await asyncio.sleep(0.01)
        return "unavailable"

    measured = run_level(run_virtual, Closed(2), lambda: refused)
    assert len(measured.windows) == 1
    assert not measured.windows[0].answered


def test_a_window_lasts_until_it_holds_enough_images(run_virtual):
    pace = Pace(window=1.0, requests=40, arrivals=40, warmup=0.0, windows=3)
    closed = run_level(run_virtual, Closed(1), one_at_a_time(0.1), pace)
    assert [window.seconds for window in closed.windows] == pytest.approx([4.0] * 3, abs=0.11)
    opened = run_level(run_virtual, Open(10.0), one_at_a_time(0.01), pace)
    assert [window.seconds for window in opened.windows] == pytest.approx([4.0] * 3)
    assert [window.answered for window in opened.windows] == pytest.approx([40] * 3, abs=1)


def test_the_server_is_observed_at_every_edge_and_windows_are_told(run_virtual):
    seen, told = [], []

    async def observe():
        seen.append(asyncio.get_running_loop().time())
        return len(seen)

    measured = run_level(run_virtual, Closed(1), one_at_a_time(0.1), observe=observe, on_window=told.append)
    assert seen == pytest.approx([1, 11, 21, 31])
    assert measured.observed == (1, 2, 3, 4)
    assert told == list(measured.windows)


def test_every_image_is_sent_once_before_one_comes_again(run_virtual):
    sent = []

    async def ask(image):
        sent.append(image)
        await asyncio.sleep(0.1)

    run_level(run_virtual, Closed(1), lambda: ask)
    rounds = [tuple(sent[n : n + 3]) for n in range(0, len(sent) - 3, 3)]
    assert all(sorted(each) == sorted(IMAGES) for each in rounds)
    assert len(set(rounds)) > 1, "always the same order"


def test_arrivals_are_a_poisson_process_with_a_given_count():
    moments = poisson_moments(50.0, 100.0, np.random.default_rng(0))
    assert moments.shape == (5000,)
    assert moments[0] >= 0 and moments[-1] < 100 and (np.diff(moments) >= 0).all()
    assert stats.kstest(np.diff(moments), "expon", args=(0, 1 / 50)).pvalue > 0.01
    in_seconds = np.bincount(moments.astype(int), minlength=100)
    assert in_seconds.var() == pytest.approx(50, rel=0.5), "as many as the mean, not evenly spread"
    assert (moments == poisson_moments(50.0, 100.0, np.random.default_rng(0))).all()
    assert len(poisson_moments(0.01, 1.0, np.random.default_rng(0))) == 1
