"""The conversation with a peer: answers, errors, and peers that end, print garbage or hang."""

import json
import os
import select
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlclip_bench.kit import workers
from mlclip_bench.kit.workers import WorkerError
from mlclip_bench.peers.catalogue import PEERS
from mlclip_bench.peers.measure import start as start_peer

DEADLINE = 30.0

GOOD = """
import os
import numpy as np

def load(settings):
    print("a library that prints")
    os.system("echo a program that prints")
    def embed(paths):
        if "bad" in paths:
            raise ValueError("bad\\nimage")
        if "short" in paths:
            return np.zeros((len(paths) - 1, 2))
        if "clock" in paths:
            return 12.5
        return [[len(path), 1.0] for path in paths]
    return embed, {"offline": os.environ["HF_HUB_OFFLINE"], "path": os.environ.get("PYTHONPATH")}
"""
UNLOADABLE = "import a_package_that_is_not_there"
FAILING = "def load(settings):\n    raise RuntimeError('no weights')"
ENDING = "import sys\ndef load(settings):\n    print('\\x1b[31mout of luck\\x1b[0m', file=sys.stderr)\n    sys.exit(7)"
HANGING = """
import subprocess, sys, threading

def load(settings):
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    return lambda paths: threading.Event().wait(), {"child": child.pid}
"""
BABBLING = "import os\ndef load(settings):\n    os.write(settings['answers'], b'tuning 3 %\\n')\n"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a peer with a script; its environment is this one, and it has time to end by itself."""
    monkeypatch.setattr(workers, "_GRACE", 120.0)
    running = []

    def start(script):
        file = tmp_path / "script.py"
        file.write_text(script)
        peer = replace(PEERS["mlclip-onnx"], script=file)
        running.append(start_peer(peer, Path(sys.executable)))
        return running[-1]

    yield start
    for process in running:
        process.close()


def listed(tmp_path, *paths):
    file = tmp_path / "list.json"
    file.write_text(json.dumps(paths))
    return str(file)


def test_a_peer_loads_offline_and_gives_vectors_and_seconds(start, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    process = start(GOOD)
    assert process.load(DEADLINE)["about"] == {"offline": "1", "path": None}
    ran = process.run(DEADLINE, images=listed(tmp_path, "a", "bcd"))
    assert ran["images"] == 2
    assert 0 < ran["seconds"] < DEADLINE
    file = tmp_path / "vectors.npy"
    answer = process.run(DEADLINE, images=listed(tmp_path, "a", "bcd"), vectors=str(file))
    assert answer["images"] == 2
    assert np.load(file).tolist() == [[1, 1], [3, 1]]
    assert process.run(DEADLINE, images=listed(tmp_path, "clock")) == {"seconds": 12.5, "images": 1}
    assert "a library that prints\na program that prints" in process.printed()


def test_a_peer_that_says_it_failed_may_be_asked_again(start, tmp_path):
    process = start(GOOD)
    process.load(DEADLINE)
    with pytest.raises(WorkerError, match="^ValueError: bad image$"):
        process.run(DEADLINE, images=listed(tmp_path, "bad"))
    with pytest.raises(WorkerError, match=r"2 images became an array of shape \(1, 2\)"):
        process.run(DEADLINE, images=listed(tmp_path, "short", "a"))
    assert process.run(DEADLINE, images=listed(tmp_path, "a"))["images"] == 1


def test_a_peer_that_was_not_loaded_says_so(start, tmp_path):
    with pytest.raises(WorkerError, match="nothing is loaded"):
        start(GOOD).run(DEADLINE, images=listed(tmp_path, "a"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (UNLOADABLE, "^ended with exit code 1: ModuleNotFoundError: No module named 'a_package_that_is_not_there'$"),
        (FAILING, "^RuntimeError: no weights$"),
        (ENDING, "^ended with exit code 7: out of luck$"),
    ],
)
def test_a_peer_that_cannot_load_is_reported_in_its_own_words(start, script, message):
    with pytest.raises(WorkerError, match=message):
        start(script).load(DEADLINE)


def test_a_peer_that_has_ended_stays_ended(start):
    process = start(ENDING)
    for _ in range(2):
        with pytest.raises(WorkerError, match="ended with exit code 7"):
            process.load(DEADLINE)


def test_garbage_ends_the_peer(start):
    process = start(BABBLING)
    answers = 3  # the descriptor that worker_protocol.py duplicated for its answers: the first free one
    with pytest.raises(WorkerError, match="answered 'tuning 3 %' where the bench expects"):
        process.load(DEADLINE, answers=answers)
    with pytest.raises(WorkerError, match="ended with signal 9"):
        process.load(DEADLINE, answers=answers)


def test_a_peer_that_hangs_is_ended_with_what_it_started(start, tmp_path):
    process = start(HANGING)
    child = os.pidfd_open(process.load(DEADLINE)["about"]["child"])
    assert not ended(child, 0)
    with pytest.raises(WorkerError, match="no answer within 0.5 s"):
        process.run(0.5, images=listed(tmp_path, "a"))
    assert ended(child, DEADLINE)
    os.close(child)


def ended(descriptor, seconds):
    """Tell whether a process ends within some seconds."""
    return bool(select.select([descriptor], [], [], seconds)[0])


def test_closing_ends_a_peer_without_force(start):
    process = start(GOOD)
    process.load(DEADLINE)
    process.close()
    with pytest.raises(WorkerError, match="ended with exit code 0"):
        process.load(DEADLINE)
