"""Starting and stopping from Python, and every way in which it can fail."""

import http.client
import re
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from mlclip_serve import ModelError, PortError, RepositoryError, Server, StartError, ports, probe
from tritonclient.utils import InferenceServerException

from ..models import same, write_config, write_ensemble
from .conftest import DEADLINE, EMBEDDING_OUT, IMAGE, PIXELS, PREPROCESS, await_end, hang_models, members

LISTEN = "0A"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}
"""127.0.0.1 in the kernel's tables of IPv4 and IPv6 sockets."""


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


def test_urls_lead_to_this_server(server):
    host, port = server.metrics_url.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    connection.request("GET", "/metrics")
    assert b'nv_inference_request_success{model="demo"' in connection.getresponse().read()
    connection.close()
    assert server.pid == server.process.pid
    assert server.process.poll() is None


def test_another_server_on_our_port_is_not_taken_for_ours(server):
    address, http = server.http_url.split(":")
    metrics = server.metrics_url.split(":")[1]
    assert probe.answers(address, int(http), int(metrics), server.id)
    assert not probe.answers(address, int(http), int(metrics), "another")


def test_server_listens_on_loopback_only(server):
    port = f"{int(server.grpc_url.split(':')[1]):04X}"
    sockets = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()]
    bound = [address for _, address, _, state, *_ in sockets if address.endswith(f":{port}") and state == LISTEN]
    assert len(bound) == 1
    assert bound[0].split(":")[0] in LOOPBACK


@pytest.mark.faults
def test_no_request_can_make_shared_memory_grow_without_end(server):
    """What would grow further gets an error instead of a signal, in the server and in its models."""
    for process in members(server.pid):
        limits = Path(f"/proc/{process}/limits").read_text()
        assert re.search(r"Max file size +(\d+)", limits)[1] == str(512 << 20)
        ignored = int(re.search(r"SigIgn:\t(\w+)", Path(f"/proc/{process}/status").read_text())[1], 16)
        assert ignored >> (signal.SIGXFSZ - 1) & 1


@pytest.mark.faults
def test_strangers_control_neither_models_nor_memory_nor_logs(server, client):
    host, port = server.http_url.split(":")
    for request in (
        lambda: client.register_system_shared_memory("mine", "/mine", 8),
        lambda: client.update_trace_settings(settings={"trace_rate": "1"}),
        lambda: client.update_log_settings({"log_info": False}),
        lambda: client.load_model("encoder"),
        lambda: client.unload_model("encoder"),
    ):
        with pytest.raises(InferenceServerException, match="protocol is restricted|not allowed|not supported"):
            request()
    for path in ("/v2/systemsharedmemory/status", "/v2/trace/setting", "/v2/logging"):
        connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
        connection.request("GET", path)
        assert connection.getresponse().status == 403
        connection.close()


@pytest.mark.slow
@pytest.mark.faults
def test_no_path_reaches_a_shell(tiny_repository, tmp_path, monkeypatch):
    preprocess = write_config(tiny_repository / "preprocess", [IMAGE], [PIXELS], backend="python")
    (preprocess / "1" / "model.py").write_text(PREPROCESS)
    steps = [("preprocess", same("image"), same("pixels")), ("encoder", same("pixels"), same("embedding_out"))]
    write_ensemble(tiny_repository / "demo_bytes", [IMAGE], [EMBEDDING_OUT], steps)
    repository = tiny_repository.rename(tmp_path / """a 'b' "c" $HOME;d ü & $(touch pwned) `touch pwned`""")
    (tmp_path / "t m $(touch pwned) p").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t m $(touch pwned) p"))
    monkeypatch.chdir(tmp_path)
    with Server(repository) as running:
        assert running.ensembles == ["demo", "demo_bytes"]
    assert not [path for path in tmp_path.rglob("pwned")]


def test_starting_twice_is_refused(server):
    with pytest.raises(StartError, match="already running"):
        server.start()


def test_stop_ends_the_server_and_removes_its_files(tiny_repository):
    """It was started in a thread that has ended, and runs a variant that wants a GPU."""
    folder = tiny_repository / "encoder"
    (folder / "configs").mkdir()
    variant = (folder / "config.pbtxt").read_text().replace("KIND_CPU", "KIND_AUTO")
    variant += 'optimization { execution_accelerators { gpu_execution_accelerator: [ { name: "cuda" } ] } }'
    (folder / "configs" / "cuda.pbtxt").write_text(variant)
    running = Server(tiny_repository, model_config_name="cuda")
    thread = threading.Thread(target=running.start)
    thread.start()
    thread.join(DEADLINE)
    try:
        assert running.ensembles == ["demo"]
        assert running.process.poll() is None
        assert "encoder: accelerator 'cuda' ignored" in running.log.read_text()
    finally:
        assert running.stop() == 0
    assert running.process.poll() == 0
    assert running.stop() == 0
    assert not running.log.parent.exists()


@pytest.mark.slow
def test_killed_server_leaves_nothing(tiny_repository):
    with Server(tiny_repository) as running:
        assert list(Path("/dev/shm").glob(f"{running.id}*"))
        hang_models(running.pid)
        running.process.kill()
        assert running.wait() == 128 + signal.SIGKILL
    assert_nothing_left(running)


def test_process_before_the_start_is_an_error(tiny_repository):
    with pytest.raises(StartError, match="has not been started"):
        _ = Server(tiny_repository).pid
    assert Server(tiny_repository).stop() is None


@pytest.mark.parametrize("service", ["grpc", "http", "metrics"])
def test_taken_port_is_named(tiny_repository, taken_port, service):
    with pytest.raises(PortError, match=rf"port {taken_port} on 127.0.0.1 is in use: choose another --{service}-port"):
        Server(tiny_repository, **{f"{service}_port": taken_port}).start()


@pytest.mark.slow
def test_ports_lost_to_another_program_are_replaced(tiny_repository, taken_port, monkeypatch):
    """One after another: the first three starts find a port taken, the fourth succeeds."""
    chosen, lost = [], ["grpc", "http", "metrics"]

    def choose(address, asked):
        found = real_choose(address, asked)
        chosen.append({**found, lost[len(chosen)]: taken_port} if len(chosen) < len(lost) else found)
        return chosen[-1]

    real_choose = ports.choose
    monkeypatch.setattr(ports, "choose", choose)
    with Server(tiny_repository) as running:
        assert len(chosen) >= 4
        assert str(taken_port) not in running.grpc_url + running.http_url + running.metrics_url


STALLS_ONCE = """
import os
import signal
import sys
from pathlib import Path


class TritonPythonModel:
    def initialize(self, args):
        if not Path({marker!r}).exists():
            Path({marker!r}).touch()
            print("what():  boost::interprocess::lock_exception", file=sys.stderr, flush=True)
            os.kill(os.getppid(), signal.SIGABRT)

    def execute(self, requests):
        return [None] * len(requests)
"""


@pytest.mark.faults
def test_a_start_that_got_no_cpu_time_is_repeated(tiny_repository, tmp_path):
    """Triton aborts with these words when a model's process does not answer it for a while, as on a busy machine."""
    marker = tmp_path / "stalled"
    model = write_config(tiny_repository / "staller", [PIXELS], [EMBEDDING_OUT], backend="python")
    (model / "1" / "model.py").write_text(STALLS_ONCE.format(marker=str(marker)))
    with Server(tiny_repository) as running:
        assert marker.exists() and running.ensembles == ["demo"]


def test_same_port_twice_is_refused():
    with pytest.raises(PortError, match="given twice"):
        ports.choose("127.0.0.1", {"grpc": 20123, "http": 20123, "metrics": 0})


def test_address_that_is_not_ours_is_refused():
    with pytest.raises(PortError, match="cannot listen on 203.0.113.1"):
        ports.choose("203.0.113.1", {"grpc": 0})


OUT_OF_ORDER, DEAD, SLEEPER = (
    f"""
import os
import threading


class TritonPythonModel:
    def execute(self, requests):
        {body}
"""
    for body in ('raise RuntimeError("out of order")', "os._exit(1)", "threading.Event().wait()")
)


def assert_nothing_left(server):
    """Neither the server, nor a process of a model, nor shared memory."""
    assert server.process.poll() is not None
    assert all(await_end(process) for process in members(server.pid))
    assert list(Path("/dev/shm").glob(f"{server.id}*")) == []


def add_sick_ensemble(root, code):
    """An ensemble whose only model loads well and answers nothing."""
    sick = write_config(root / "sick_model", [PIXELS], [EMBEDDING_OUT], backend="python")
    (sick / "1" / "model.py").write_text(code)
    step = ("sick_model", same("pixels"), same("embedding_out"))
    write_ensemble(root / "sick", [PIXELS], [EMBEDDING_OUT], [step])


@pytest.mark.parametrize(
    ("code", "reason"), [(OUT_OF_ORDER, "out of order$"), (DEAD, "not healthy.$")], ids=["raises", "dies"]
)
def test_ensemble_that_fails_at_inference_is_never_ready(tiny_repository, code, reason):
    add_sick_ensemble(tiny_repository, code)
    server = Server(tiny_repository)
    with pytest.raises(ModelError, match=rf"ensemble 'sick' fails on a test inference: .*{reason}") as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert caught.value.log.is_file()
    assert_nothing_left(server)


def test_ensemble_that_never_answers_is_given_up(tiny_repository, monkeypatch):
    def impatient(client, config, deadline):
        infer(client, config, time.monotonic() + 1 if config.name == "sick" else deadline)

    infer = probe._infer
    monkeypatch.setattr(probe, "_infer", impatient)
    add_sick_ensemble(tiny_repository, SLEEPER)
    server = Server(tiny_repository)
    with pytest.raises(StartError, match="ensemble 'sick' did not answer in time"):
        server.start()
    assert_nothing_left(server)


def test_server_that_is_not_ready_in_time_is_given_up(tiny_repository):
    with pytest.raises(StartError, match="not ready after 0.01 s"):
        Server(tiny_repository, ready_timeout=0.01).start()


def test_missing_model_file_is_named(tiny_repository):
    file = tiny_repository / "encoder" / "1" / "model.onnx"
    file.unlink()
    with pytest.raises(RepositoryError, match=f"model 'encoder' is incomplete: {file} is missing"):
        Server(tiny_repository).start()


def test_missing_weights_are_named(tiny_repository):
    (tiny_repository / "encoder" / "1" / "model.onnx.data").unlink()
    with pytest.raises(ModelError, match="model 'encoder' does not load: .*model.onnx.data") as caught:
        Server(tiny_repository).start()
    assert "\n" not in str(caught.value)


def test_gpu_instance_without_gpu_is_one_line(tiny_repository):
    config = tiny_repository / "encoder" / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_GPU"))
    with pytest.raises(ModelError, match="model 'encoder' does not load: .*no GPUs are available"):
        Server(tiny_repository).start()
