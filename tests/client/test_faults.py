"""What becomes of a run when a part of the server fails under it: no row is lost, doubled or wrong."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import text_format
from mlclip_client import Client, DeadlineExceeded
from mlclip_client.errors import ServerBusy
from tritonclient.grpc import model_config_pb2 as pb

from .input_files import rows_of

pytestmark = [pytest.mark.slow, pytest.mark.faults]


@pytest.fixture
def supervised(tiny, tmp_path, lasting_port):
    """The launcher as a process of its own, and its ready file."""
    ready = tmp_path / "ready.json"
    ports = [f"--{kind}-port={lasting_port()}" for kind in ("grpc", "http", "metrics")]
    command = [sys.executable, "-m", "mlclip_serve", tiny.root, *ports, f"--ready-file={ready}", "--ready-timeout=600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            assert any(line.startswith("Ctrl-C") for line in launcher.stdout), launcher.stderr.read()
            yield json.loads(ready.read_text()), launcher
            launcher.send_signal(signal.SIGTERM)
            assert launcher.wait(120) == 0
        finally:
            launcher.kill()


def model_process(server, model):
    """The process of a Python model: the one whose command line names the model's file."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            group = int((entry / "stat").read_text().rpartition(") ")[2].split()[2])
            if group == server and f"{model}/1/model.py" in words:
                return int(entry.name)
    raise AssertionError(f"no process of {model}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_model_that_dies_or_hangs_under_a_run_costs_no_row(start, tiny, supervised, gate, folder, tmp_path, number):
    """The run stands at an image when the process that decodes it dies, and goes on when it has been started again."""
    ready, launcher = supervised
    (folder / "20.png").write_bytes(gate.image)  # sorts after 00 to 19, before `sub`
    out = tmp_path / "labels.parquet"
    options = ("--concurrency", 1, "--retry-seconds", 300, "--timeout", 30, "--scores")
    process = start("classify", folder, "--head", "color", "--url", ready["grpc"], "--out", out, *options)
    gate.await_request()
    os.kill(model_process(ready["pid"], "preprocess"), number)
    assert "the server starts again in 1 s" in launcher.stderr.readline()
    gate.open()  # for the request that is sent again
    code, _, stderr = process.finish()
    assert code == 3, stderr
    rows = rows_of(out)
    assert [row["path"] for row in rows] == sorted(str(path) for path in folder.rglob("*.*"))
    for row in rows:
        if row["path"] == str(folder / "20.png"):
            assert row["error_kind"] == "decode"
            continue
        scores = tiny.scores(Path(row["path"]).read_bytes(), "color").tolist()
        assert row["answers"]["color"]["all_scores"] == pytest.approx(scores, abs=1e-5)


def test_a_run_that_nobody_answers_ends_and_keeps_its_rows(run, serve, tiny, files, tmp_path):
    """A server without supervision, whose decoding process is dead."""
    running = serve(tiny.root)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(60):
        (images / f"{number:02}.png").write_bytes(files[number % 40] + bytes(number))
    os.kill(model_process(running.pid, "preprocess"), signal.SIGKILL)
    out = tmp_path / "labels.jsonl"
    options = ("--max-failures", 20, "--retry-seconds", 1, "--concurrency", 4)
    result = run("classify", images, "--head", "color", "--url", running.grpc_url, "--out", out, *options)
    assert result.exit_code == 1
    assert "stopped after 20 errors in a row, the last one unavailable: " in result.stderr
    assert result.stderr.endswith(f"; the rows up to here are in {tmp_path / 'labels.partial.jsonl'}\n")
    assert len((tmp_path / "labels.partial.jsonl").read_text().splitlines()) == 20 and not out.exists()


def test_what_waits_too_long_for_its_decoding_is_not_decoded(serve, tiny, gate, files, tmp_path):
    """Triton does not tell that a client has gone, so its requests end by their time in the queue."""
    root = tmp_path / "repository"
    shutil.copytree(tiny.root, root)
    file = root / "preprocess" / "config.pbtxt"
    config = text_format.Parse(file.read_text(), pb.ModelConfig())
    config.dynamic_batching.default_queue_policy.default_timeout_microseconds = 1_000
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    file.write_text(text_format.MessageToString(config))
    running = serve(root)
    with Client(running.grpc_url, heads=("color",), timeout=2) as client:
        client.asked_heads()
        with pytest.raises(DeadlineExceeded):
            client.classify(gate.image)
        gate.await_request()
        with pytest.raises((DeadlineExceeded, ServerBusy)):
            client.classify(gate.image)
        gate.open()
        with Client(running.grpc_url, heads=("color",), timeout=60) as another:
            assert another.classify(files[0]).answers
        assert not gate.has_request()
