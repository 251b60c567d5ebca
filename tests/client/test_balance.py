"""Several endpoints as one: who is asked when, in virtual time; and with two real servers, one of which dies."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlclip_client import Client
from mlclip_client.balance import Balanced
from mlclip_client.errors import BadImage, DeadlineExceeded, ServerBusy, ServerError, ServerUnavailable
from mlclip_client.transport import finish


class World:
    """A clock that only moves when somebody waits, and servers that fail at times that are told."""

    def __init__(self, **down):
        self.now, self.down, self.calls, self.waits = 0.0, down, [], []

    def transport(self, name):
        return Road(self, name)

    def balanced(self, patience, warm=True):
        balanced = Balanced({name: self.transport(name) for name in self.down}, patience, lambda: self.now)
        balanced._answered = warm
        return balanced


class Road:
    """The way to one server: it fails with the first error of its list whose time is not over."""

    def __init__(self, world, name):
        self.world, self.name = world, name

    async def call(self, rpc, request):
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


def ask(balanced):
    return finish(balanced.call("ModelInfer", None))


def test_requests_go_round_robin():
    world = World(a=[], b=[], c=[])
    balanced = world.balanced(0)
    assert [ask(balanced)[0] for _ in range(7)] == list("abcabca")
    assert balanced.retries == 0


def test_who_is_away_is_left_out_and_comes_back():
    world = World(a=[(3.0, ServerUnavailable)], b=[])
    balanced = world.balanced(0)
    assert [ask(balanced) for _ in range(10)] == ["b answers"] * 10
    assert world.calls.count("a") == 1, "left out after its first failure"
    assert balanced.retries == 1
    away = balanced.endpoints[0]
    assert away.failures == 1
    world.now = 3.0
    assert {ask(balanced) for _ in range(2)} == {"a answers", "b answers"}
    assert away.failures == 0


def test_the_rest_of_an_endpoint_grows_up_to_five_seconds():
    world = World(a=[(100.0, ServerUnavailable)], b=[])
    balanced = world.balanced(0)
    rests = []
    for _ in range(12):
        world.now = max(world.now, balanced.endpoints[0].rests_until)
        ask(balanced)
        ask(balanced)
        rests.append(balanced.endpoints[0].rests_until - world.now)
    assert 0.05 <= rests[0] <= 0.1
    assert all(2.5 <= rest <= 5.0 for rest in rests[7:])


@pytest.mark.parametrize("error", [ServerUnavailable, ServerBusy, DeadlineExceeded])
def test_patience_outlasts_a_short_outage(error):
    world = World(a=[(20.0, error)])
    balanced = world.balanced(60)
    assert ask(balanced) == "a answers"
    assert 20 <= world.now < 26
    assert balanced.retries == len(world.calls) - 1 < 20, "not a storm of requests"
    assert len(set(world.waits)) == len(world.waits), "jitter"


@pytest.mark.parametrize("error", [ServerUnavailable, ServerBusy])
def test_patience_ends(error):
    world = World(a=[(1000.0, error)])
    with pytest.raises(error):
        ask(world.balanced(30))
    assert 20 < world.now <= 30


@pytest.mark.parametrize("error", [BadImage, ServerError])
def test_what_another_try_cannot_mend_is_not_sent_again(error):
    world = World(a=[(1000.0, error)], b=[])
    with pytest.raises(error):
        ask(world.balanced(30))
    assert world.calls == ["a"]


def test_before_the_first_answer_there_is_no_patience():
    world = World(a=[(10.0, ServerUnavailable)], b=[(10.0, ServerUnavailable)])
    with pytest.raises(ServerUnavailable):
        ask(world.balanced(60, warm=False))
    assert world.calls == ["a", "b"]
    assert world.now == 0


def test_many_requests_that_fail_together_count_as_one_failure():
    world = World(a=[(1.0, ServerUnavailable)])
    balanced = world.balanced(60)
    first, rest = balanced.endpoints[0], []
    for _ in range(8):
        balanced._note(first, ServerUnavailable("away"))
        rest.append(first.rests_until)
    assert first.failures == 1
    assert len(set(rest)) == 1


def test_a_dead_server_costs_no_answer_and_a_new_one_is_found(tiny, server, mortal_server, files):
    urls = (server.grpc_url, mortal_server.grpc_url)
    with Client(urls, heads=("color",), patience=60) as client:
        client.asked_heads()
        with ThreadPoolExecutor(4) as pool:
            before = list(pool.map(client.classify, files))
            os.kill(mortal_server.pid, signal.SIGKILL)
            after = list(pool.map(client.classify, files))
        assert [one.answers["color"].chosen() for one in before] == [one.answers["color"].chosen() for one in after]
        up = {endpoint.url: endpoint.failures == 0 for endpoint in client.transport.endpoints}
        assert up == {server.grpc_url: True, mortal_server.grpc_url: False}
        assert client.transport.retries >= 1
