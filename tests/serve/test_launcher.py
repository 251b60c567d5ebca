"""The command `mlclip-serve`, as a process of its own."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlclip_serve import cli

from .conftest import DEADLINE, await_end, hang_models, members

COMMAND = [sys.executable, "-m", "mlclip_serve"]
FREE_PORTS = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
PATIENCE = 300.0
"""Seconds for a run of the launcher: a stop alone may take 60."""


def run(*arguments, command=COMMAND):
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE)


@contextmanager
def launched(repository, ready_file, *arguments):
    """Start the launcher and wait for its last line of greeting."""
    command = [*COMMAND, str(repository), *FREE_PORTS, f"--ready-file={ready_file}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            greeting = []
            for line in launcher.stdout:
                greeting.append(line.rstrip())
                if line.startswith("Ctrl-C"):
                    break
            assert greeting, launcher.stderr.read()
            yield launcher, greeting
        finally:
            launcher.kill()


def test_greeting_and_ready_file_name_the_endpoints_until_an_interrupt(tiny_repository, tmp_path):
    ready_file = tmp_path / "ready.json"
    with launched(tiny_repository, ready_file) as (launcher, greeting):
        ready = json.loads(ready_file.read_text())
        assert greeting[:4] == [
            f"gRPC     {ready['grpc']}",
            f"HTTP     http://{ready['http']}",
            f"metrics  http://{ready['metrics']}/metrics",
            "serving  demo",
        ]
        assert len({ready["grpc"], ready["http"], ready["metrics"]}) == 3
        for url in (ready["grpc"], ready["http"], ready["metrics"]):
            host, port = url.split(":")
            socket.create_connection((host, int(port)), timeout=DEADLINE).close()
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(PATIENCE) == 0
        assert launcher.stderr.read() == ""
    assert not ready_file.exists()
    assert await_end(ready["pid"])


STOPPED_AT_THE_LAST_MOMENT = """
import os, signal
from mlclip_serve import Server, cli

def start(server):
    really(server)
    os.kill(os.getpid(), signal.SIGTERM)
    return server

really, Server.start = Server.start, start
cli._write_ready_file = lambda server, path: exit("this server is stopping")
cli.main()
"""


@pytest.mark.slow
def test_a_server_that_stops_as_soon_as_it_is_ready_is_not_announced(tiny_repository, tmp_path):
    command = [sys.executable, "-c", STOPPED_AT_THE_LAST_MOMENT]
    done = run(tiny_repository, *FREE_PORTS, "--ready-file", tmp_path / "ready", command=command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_ready_pipe_is_written_to_and_stays(tmp_path):
    os.mkfifo(tmp_path / "ready")
    handle = os.open(tmp_path / "ready", os.O_RDWR)
    cli._write_ready_file(SimpleNamespace(grpc_url="a", http_url="b", metrics_url="c", pid=7), tmp_path / "ready")
    cli._remove(tmp_path / "ready")
    assert json.loads(os.read(handle, 1000)) == {"grpc": "a", "http": "b", "metrics": "c", "pid": 7}
    os.close(handle)
    assert (tmp_path / "ready").is_fifo()


@pytest.mark.slow
def test_exit_code_is_the_servers(tiny_repository, tmp_path):
    ready_file = tmp_path / "ready"
    with launched(tiny_repository, ready_file, "--max-restarts=0") as (launcher, _):
        os.kill(json.loads(ready_file.read_text())["pid"], signal.SIGKILL)
        assert launcher.wait(PATIENCE) == 128 + signal.SIGKILL
        assert not ready_file.exists()
        assert "the server ended with exit code 137" in launcher.stderr.read()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(
    ("victim", "number", "said"),
    [
        ("server", signal.SIGKILL, "the server ended with exit code 137"),
        ("model", signal.SIGKILL, "a process of a model has died"),
        ("model", signal.SIGSTOP, "a process of the server was stopped"),
        ("server", signal.SIGSTOP, "a process of the server was stopped"),
    ],
)
def test_a_server_that_fails_is_started_again_on_the_same_ports(tiny_repository, tmp_path, victim, number, said):
    ready_file = tmp_path / "ready"
    with launched(tiny_repository, ready_file) as (launcher, greeting):
        before = json.loads(ready_file.read_text())
        (model,) = set(members(before["pid"])) - {before["pid"]}
        os.kill(before["pid"] if victim == "server" else model, number)
        assert said in (line := launcher.stderr.readline()) and "; the server starts again in 1 s" in line
        assert [launcher.stdout.readline().rstrip() for _ in greeting] == greeting
        after = json.loads(ready_file.read_text())
        assert after.pop("pid") != before.pop("pid") and after == before
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(PATIENCE) == 0
        assert launcher.stderr.read() == ""


@pytest.mark.slow
@pytest.mark.faults
def test_a_signal_between_two_starts_ends_the_launcher(tiny_repository, tmp_path):
    ready_file = tmp_path / "ready"
    with launched(tiny_repository, ready_file) as (launcher, _):
        (tiny_repository / "encoder" / "1" / "model.onnx").unlink()
        os.kill(json.loads(ready_file.read_text())["pid"], signal.SIGKILL)
        for pause in (1, 2, 4):
            assert f"; the server starts again in {pause} s" in launcher.stderr.readline()
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(PATIENCE) == 128 + signal.SIGTERM


@pytest.mark.faults
def test_damage_is_found_without_a_start(tiny_repository):
    sums = tiny_repository / "encoder" / "SHA256SUMS"
    sums.write_text(f"{hashlib.sha256(b'other').hexdigest()}  config.pbtxt\n")
    file = tiny_repository / "encoder" / "config.pbtxt"
    for options in ([], ["--check"]):
        done = run(tiny_repository, *options, *FREE_PORTS)
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: {file} is not as it was exported; not served: demo; export again\n",
        )
    sums.unlink()
    assert run(tiny_repository, "--check").returncode == 0


@pytest.mark.faults
def test_an_address_that_others_reach_needs_a_word(tiny_repository):
    done = run(tiny_repository, "--address=0.0.0.0", "--docker")
    assert done.returncode == 1 and "others can reach 0.0.0.0, and Triton has no access control" in done.stderr
    assert run(tiny_repository, "--address=0.0.0.0", "--docker", "--insecure").returncode == 0


@pytest.mark.slow
def test_killed_launcher_leaves_no_server(tiny_repository, tmp_path):
    ready_file = tmp_path / "ready"
    with launched(tiny_repository, ready_file) as (launcher, _):
        pid = json.loads(ready_file.read_text())["pid"]
        group = members(pid)
        assert len(group) == 2
        hang_models(pid)
        launcher.kill()
        assert all(await_end(process) for process in group)


def test_errors_are_one_line_and_exit_code_1(tmp_path):
    missing = run(tmp_path / "nothing")
    assert missing.returncode == 1
    assert missing.stderr == (
        f"Error: there is no model repository at {tmp_path / 'nothing'}:"
        " name another, or write one with mlclip-export\n"
    )
    assert missing.stdout == ""


def test_ready_file_without_a_folder_is_refused_at_once(tiny_repository, tmp_path):
    done = run(tiny_repository, "--ready-file", tmp_path / "nowhere" / "ready")
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: the folder of --ready-file {tmp_path / 'nowhere' / 'ready'} does not exist: make it first\n"
    )


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in run(tmp_path / "nothing", "--debug").stderr


def test_wrong_usage_is_exit_code_2():
    assert run("--grpc-port=70000").returncode == 2


def test_broken_onnx_file_is_one_line_that_names_the_log(tiny_repository):
    (tiny_repository / "encoder" / "1" / "model.onnx").write_bytes(b"\x08")
    done = run(tiny_repository, *FREE_PORTS)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "model 'encoder' does not load: " in done.stderr
    assert "model.onnx is broken" in done.stderr
    log = done.stderr.split("(Triton's log: ")[1].rstrip(")\n")
    assert "failed to load 'encoder'" in Path(log).read_text()


def test_verbose_shows_tritons_log(tiny_repository):
    (tiny_repository / "encoder" / "1" / "model.onnx").write_bytes(b"\x08")
    assert "failed to load 'encoder' version 1" in run(tiny_repository, *FREE_PORTS, "--log-verbose=1").stderr


def test_docker_prints_a_command_with_ports_mounts_and_packages(tiny_repository):
    done = run(tiny_repository, "--docker", "--grpc-port=9001", "--model-config-name=cuda")
    assert done.returncode == 0
    assert "tritonserver:26.03-py3\\nRUN pip install --no-cache-dir" in done.stdout
    assert "pillow ftfy instant-clip-tokenizer && install -d -o 1000 /engines\\n" in done.stdout
    command = done.stdout.splitlines()[-1].split()
    assert command[:2] == ["docker", "run"]
    for part in (
        "--publish=127.0.0.1:9001:8001",
        "--publish=127.0.0.1:8000:8000",
        "--publish=127.0.0.1:8002:8002",
        f"--volume={tiny_repository}:/models:ro",
        "--volume=mlclip-engines:/engines",
        "--shm-size=1g",
        "--user=1000:1000",
        "--read-only",
        "--cap-drop=ALL",
        "--model-repository=/models",
        "--model-config-name=cuda",
    ):
        assert part in command
