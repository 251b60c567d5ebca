"""A stream of items through threads or tasks: order, laziness, bounds, errors."""

import asyncio
import itertools
import os
import threading

import pytest
from mlclip_client.ordered import ordered, ordered_async


def in_tasks(work, items, threads, window):
    """`ordered_async` as a plain iterator, which runs an event loop while the next result is waited for."""

    async def async_work(item):
        return await asyncio.to_thread(work, item)

    with asyncio.Runner() as runner:
        results = ordered_async(async_work, items, threads, window)
        try:
            while True:
                try:
                    yield runner.run(anext(results))
                except StopAsyncIteration:
                    return
        finally:
            runner.run(results.aclose())


@pytest.fixture(params=[ordered, in_tasks])
def pipeline(request):
    return request.param


def test_results_come_in_input_order_though_the_first_takes_longest(pipeline):
    gate = threading.Event()

    def work(number):
        if number == 0:
            assert gate.wait(60)
        if number == 3:
            gate.set()
        return number

    assert list(pipeline(work, range(100), threads=4, window=8)) == list(range(100))


def test_a_result_comes_out_while_the_next_item_is_waited_for(pipeline):
    reading, writing = os.pipe()
    with os.fdopen(reading) as words:
        lines = pipeline(str.strip, words, threads=2, window=8)
        with os.fdopen(writing, "w") as pipe:
            for word in ("one", "two"):
                pipe.write(word + "\n")
                pipe.flush()
                assert next(lines) == word
        assert list(lines) == []


def test_no_more_than_the_window_is_read_ahead(pipeline):
    read = []
    items = (read.append(number) or number for number in itertools.count())
    results = pipeline(lambda number: number, items, threads=2, window=5)
    for expected in range(50):
        assert next(results) == expected
        assert len(read) <= expected + 5
    results.close()
    assert len(read) <= 49 + 5


def test_as_many_items_as_there_are_threads_are_in_work_at_once(pipeline):
    together, lock, now, most = threading.Barrier(4, timeout=60), threading.Lock(), 0, 0

    def work(number):
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        together.wait()
        with lock:
            now -= 1

    assert len(list(pipeline(work, range(20), threads=4, window=8))) == 20
    assert most == 4


@pytest.mark.parametrize("place", ["work", "items"])
def test_an_error_comes_in_its_place_and_ends_everything(pipeline, place):
    def items():
        for number in range(100):
            if place == "items" and number == 7:
                raise OSError("seven")
            yield number

    def work(number):
        if place == "work" and number == 7:
            raise OSError("seven")
        return number

    results = pipeline(work, items(), threads=3, window=20)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(OSError, match="seven"):
        next(results)


def test_tasks_that_nobody_waits_for_any_more_are_cancelled():
    ended = []

    async def work(number):
        try:
            await asyncio.sleep(0 if number == 0 else 600)
        finally:
            ended.append(number)

    async def ask():
        results = ordered_async(work, itertools.count(), 3, 6)
        await anext(results)
        await results.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())
    assert 0 in ended
