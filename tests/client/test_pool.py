"""Several endpoints as one: which is asked when, in virtual time; and two real servers, one of which dies."""

import contextlib
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mlclip_client import Client
from mlclip_client.errors import BadImage, DeadlineExceeded, ServerBusy, ServerError, ServerUnavailable
from mlclip_client.events import logged
from mlclip_client.server.pool import EndpointPool
from mlclip_client.server.transport import finish


class World:
    """A clock that only moves when something waits, and servers that fail until given times."""

    def __init__(self, **down):
        self.now, self.down, self.calls, self.waits = 0.0, down, [], []

    def pool(self, retry_seconds, warm=True):
        pool = EndpointPool({name: Scripted(self, name) for name in self.down}, retry_seconds, lambda: self.now)
        pool._answered = -1.0 if warm else None
        return pool


class Scripted:
    """A transport to one server: it fails with the first error of its list whose time is not over."""

    def __init__(self, world, name):
        self.world, self.name = world, name

    async def answer(self):
        self.world.calls.append(self.name)
        for until, error in self.world.down[self.name]:
            if self.world.now < until:
                raise error("away")
        return f"{self.name} answers"

    async def work(self, function):
        return function()

    async def pause(self, seconds):
        self.world.waits.append(seconds)
        self.world.now += seconds


def ask(pool):
    return finish(pool.ask(lambda endpoint: endpoint.transport.answer()))


def test_requests_go_round_robin():
    world = World(a=[], b=[], c=[])
    pool = world.pool(0)
    assert [ask(pool)[0] for _ in range(7)] == list("abcabca")
    assert pool.retries == 0


def test_an_endpoint_that_is_away_is_left_out_and_comes_back():
    world = World(a=[(3.0, ServerUnavailable)], b=[])
    pool = world.pool(0)
    assert [ask(pool) for _ in range(10)] == ["b answers"] * 10
    assert world.calls.count("a") == 1, "left out after its first failure"
    assert pool.retries == 1
    away = pool.endpoints[0]
    assert away.failures == 1
    world.now = 3.0
    assert {ask(pool) for _ in range(2)} == {"a answers", "b answers"}
    assert away.failures == 0


def test_the_rest_of_an_endpoint_grows_up_to_five_seconds():
    world = World(a=[(100.0, ServerUnavailable)], b=[])
    pool = world.pool(0)
    rests = []
    for _ in range(12):
        world.now = max(world.now, pool.endpoints[0].rests_until)
        ask(pool)
        ask(pool)
        rests.append(pool.endpoints[0].rests_until - world.now)
    assert 0.05 <= rests[0] <= 0.1
    assert all(2.5 <= rest <= 5.0 for rest in rests[7:])


@pytest.mark.parametrize("error", [ServerUnavailable, ServerBusy, DeadlineExceeded])
def test_retries_outlast_a_short_outage(error):
    world = World(a=[(20.0, error)])
    pool = world.pool(60)
    assert ask(pool) == "a answers"
    assert 20 <= world.now < 26
    assert pool.retries == len(world.calls) - 1 < 20, "not a storm of requests"
    assert len(set(world.waits)) == len(world.waits), "jitter"


@pytest.mark.parametrize("error", [ServerUnavailable, ServerBusy])
def test_retries_end(error):
    world = World(a=[(1000.0, error)])
    with pytest.raises(error):
        ask(world.pool(30))
    assert 20 < world.now <= 30


@pytest.mark.parametrize("error", [BadImage, ServerError])
def test_what_another_try_cannot_change_is_not_sent_again(error):
    world = World(a=[(1000.0, error)], b=[])
    with pytest.raises(error):
        ask(world.pool(30))
    assert world.calls == ["a"]


def test_before_the_first_answer_nothing_is_retried():
    world = World(a=[(10.0, ServerUnavailable)], b=[(10.0, ServerUnavailable)])
    with pytest.raises(ServerUnavailable):
        ask(world.pool(60, warm=False))
    assert world.calls == ["a", "b"]
    assert world.now == 0


def test_after_a_question_was_given_up_the_next_fail_at_once_until_an_endpoint_answers():
    world = World(a=[(100.0, ServerUnavailable)])
    pool = world.pool(30)
    with pytest.raises(ServerUnavailable):
        ask(pool)
    given_up = world.now
    for _ in range(1000):
        with pytest.raises(ServerUnavailable, match="away"):
            ask(pool)
    assert world.now == given_up
    tries = len(world.calls)
    while world.now < 100:
        world.now += 0.5
        with contextlib.suppress(ServerUnavailable):
            ask(pool)
    assert len(world.calls) - tries <= 70 / 2.5 + 1, "an endpoint that rests is not asked"
    world.now += 5
    assert ask(pool) == "a answers"
    world.down["a"] = [(world.now + 10, ServerUnavailable)]
    assert ask(pool) == "a answers", "it is retried again"


def test_a_question_given_up_among_others_that_were_answered_stops_no_retries():
    world = World(a=[(1000.0, ServerBusy)])
    pool = world.pool(30)

    async def meanwhile(endpoint):
        pool._answered = world.now  # another question was answered
        return await endpoint.transport.answer()

    for question in (meanwhile, meanwhile, lambda endpoint: endpoint.transport.answer()):
        world.now, before = world.now + 1, len(world.calls)
        with pytest.raises(ServerBusy):
            finish(pool.ask(question))
        assert len(world.calls) > before + 5
    before = len(world.calls)
    with pytest.raises(ServerBusy):
        ask(pool)
    assert len(world.calls) == before + 1, "here nobody had been answered for 30 s"


def test_all_are_asked_and_those_that_are_away_are_left_out(tmp_path, capsys):
    world = World(a=[(9.0, ServerUnavailable)], b=[], c=[])
    pool = world.pool(60, warm=False)
    with logged(tmp_path / "log"):
        found = finish(pool.ask_each(lambda endpoint: endpoint.transport.answer()))
        assert found == ["b answers", "c answers"]
        assert [endpoint.failures for endpoint in pool.endpoints] == [1, 0, 0]
        world.now = 9.0
        ask(pool)
    assert capsys.readouterr().err == "away; it is asked again from time to time\na answers again\n"
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events == ["endpoint away", "endpoint back"]


def test_asking_all_raises_if_none_answers_or_one_refuses():
    nobody = World(a=[(9.0, ServerUnavailable)], b=[(9.0, DeadlineExceeded)])
    refused = World(a=[(9.0, ServerError)], b=[])
    for world, error in ((nobody, DeadlineExceeded), (refused, ServerError)):
        with pytest.raises(error):
            finish(world.pool(60).ask_each(lambda endpoint: endpoint.transport.answer()))


def test_what_fails_at_once_needs_no_notice(capsys):
    world = World(a=[(9.0, ServerUnavailable)])
    with logged(None), pytest.raises(ServerUnavailable):
        ask(world.pool(0))
    assert capsys.readouterr().err == ""


def test_without_retries_each_endpoint_is_tried_once_even_if_all_rest():
    world = World(a=[(9.0, ServerUnavailable)], b=[])
    pool = world.pool(0)
    first, second = pool.endpoints
    first.rests_until, second.rests_until = 1.0, 2.0
    assert ask(pool) == "b answers"
    assert world.calls == ["a", "b"]


def test_many_requests_that_fail_together_count_as_one_failure():
    world = World(a=[(1.0, ServerUnavailable)])
    pool = world.pool(60)
    first, rest = pool.endpoints[0], []
    for _ in range(8):
        pool._note(first, ServerUnavailable("away"))
        rest.append(first.rests_until)
    assert first.failures == 1
    assert len(set(rest)) == 1


@pytest.mark.slow
def test_a_dead_server_costs_no_answer_and_a_new_one_is_found(tiny, server, mortal_server, files):
    urls = (server.grpc_url, mortal_server.grpc_url)
    with Client(urls, heads=("color",), retry_seconds=60) as client:
        client.asked_heads()
        with ThreadPoolExecutor(4) as threads:
            before = list(threads.map(client.classify, files))
            os.kill(mortal_server.pid, signal.SIGKILL)
            after = list(threads.map(client.classify, files))
        for one, other in zip(before, after, strict=True):
            np.testing.assert_allclose(one.answers["color"].scores, other.answers["color"].scores, atol=1e-5)
        up = {endpoint.url: endpoint.failures == 0 for endpoint in client.transport.endpoints}
        assert up == {server.grpc_url: True, mortal_server.grpc_url: False}
        assert client.transport.retries >= 1
