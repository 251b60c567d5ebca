"""A stream of items through threads: order, laziness, bounds, errors."""

import itertools
import os
import threading

import pytest
from mlclip_client.ordered import ordered


def test_results_come_in_input_order_though_the_first_takes_longest():
    gate = threading.Event()

    def work(number):
        if number == 0:
            assert gate.wait(60)
        if number == 3:
            gate.set()
        return number

    assert list(ordered(work, range(100), threads=4, window=8)) == list(range(100))


def test_a_result_comes_out_while_the_next_item_is_waited_for():
    reading, writing = os.pipe()
    with os.fdopen(reading) as words:
        lines = ordered(str.strip, words, threads=2, window=8)
        with os.fdopen(writing, "w") as pipe:
            for word in ("one", "two"):
                pipe.write(word + "\n")
                pipe.flush()
                assert next(lines) == word
        assert list(lines) == []


def test_no_more_than_the_window_is_read_ahead():
    read = []
    items = (read.append(number) or number for number in itertools.count())
    results = ordered(lambda number: number, items, threads=2, window=5)
    for expected in range(50):
        assert next(results) == expected
        assert len(read) <= expected + 1 + 5 + 1
    results.close()


@pytest.mark.parametrize("place", ["work", "items"])
def test_an_error_comes_in_its_place_and_ends_everything(place):
    def items():
        for number in range(100):
            if place == "items" and number == 7:
                raise OSError("seven")
            yield number

    def work(number):
        if place == "work" and number == 7:
            raise OSError("seven")
        return number

    results = ordered(work, items(), threads=3, window=20)
    assert list(itertools.islice(results, 7)) == list(range(7))
    with pytest.raises(OSError, match="seven"):
        next(results)
