"""When a running server counts as failed, and what others are told of its health."""

import http.client
import socket
import threading
from types import SimpleNamespace

import pytest
from mlclip_serve import Server, supervisor
from mlclip_serve.errors import ModelError, PortError, StartError
from mlclip_serve.health import health

from ..models import same, write_config, write_ensemble
from .conftest import EMBEDDING_OUT, PIXELS

pytestmark = pytest.mark.faults

HANGS = """
import threading
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    asked = 0

    def execute(self, requests):
        self.asked += len(requests)
        if self.asked > 1:
            threading.Event().wait()
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("embedding_out", np.zeros((1, 5), np.float32))])
            for _ in requests
        ]
"""


@pytest.fixture
def impatient(monkeypatch):
    """Look, probe and lose patience at once."""
    for name in ("_LOOK", "_PROBE", "_REST", "_SILENCE"):
        monkeypatch.setattr(supervisor, name, 0.0)
    monkeypatch.setattr(supervisor, "_ANSWER", 1.0)


@pytest.mark.slow
def test_a_model_that_hangs_is_noticed_by_a_real_question(tmp_path, impatient):
    folder = write_config(tmp_path / "hanging", [PIXELS], [EMBEDDING_OUT], backend="python")
    (folder / "1" / "model.py").write_text(HANGS)
    write_ensemble(tmp_path / "sick", [PIXELS], [EMBEDDING_OUT], [("hanging", same("pixels"), same("embedding_out"))])
    with Server(tmp_path) as server:
        assert supervisor.await_fault(server).startswith("hanging has answered nothing for ")
        server.kill()


class World:
    """A server whose probes end as told, and one of whose models finishes some requests between them."""

    def __init__(self, monkeypatch, *probes, finishing=0, waiting=True):
        self.pid, self.grpc_url, self.metrics_url, self.ensembles = 0, "", "", ["a", "b"]
        self.probes, self.looks, self.finished, self.asked = list(probes), 0, 0, []

        def infer(url, name, deadline):
            self.asked.append(name)
            if self.probes[0] is not None:
                raise self.probes[0]("failed")

        def counts(url):
            self.finished += finishing
            return {"decode": self.finished} if waiting else {}

        monkeypatch.setattr(supervisor, "probe", SimpleNamespace(infer=infer, waiting=counts))
        monkeypatch.setattr(supervisor, "_states", lambda group: {0: "S"})

    def ends_within(self, seconds):
        self.looks += 1
        if self.looks > 1:
            self.probes.pop(0)
        return not self.probes

    def wait(self):
        return 0


@pytest.mark.parametrize("load", [{"finishing": 1}, {"waiting": False}])
def test_a_busy_server_is_no_failure(monkeypatch, impatient, load):
    world = World(monkeypatch, *[StartError] * 20, **load)
    assert supervisor.await_fault(world) is None
    assert world.asked == ["a"] * 20


def test_a_model_that_finishes_nothing_of_its_queue_is_a_failure(monkeypatch, impatient):
    world = World(monkeypatch, *[StartError] * 20)
    assert supervisor.await_fault(world).startswith("decode has answered nothing for ")


def test_an_ensemble_fails_at_its_third_failure_in_a_row(monkeypatch, impatient):
    probes = [ModelError, ModelError, None, ModelError, ModelError, ModelError]
    world = World(monkeypatch, *probes)
    assert supervisor.await_fault(world) == "failed"
    assert world.asked == ["a", "a", "a", "b", "b", "b"]


def status(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path)
    code = connection.getresponse().status
    connection.close()
    return code


def test_health_is_live_at_once_and_ready_when_the_server_is():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        with pytest.raises(PortError, match=f"port {port} for health: Address already in use"):
            health("127.0.0.1", port, threading.Event()).__enter__()
    ready = threading.Event()
    with health("127.0.0.1", port, ready):
        assert [status(port, path) for path in ("/live", "/ready", "/v2/models")] == [200, 503, 404]
        ready.set()
        assert status(port, "/ready") == 200
