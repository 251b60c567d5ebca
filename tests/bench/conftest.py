"""A clock that jumps instead of waiting, lines as a load measurement stores them, and a small real repository."""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mlclip_bench.load.windows import Histogram, Window
from mlclip_export import export_runs

from mlclip.checkpoint import EncoderRef, Run
from mlclip.encoders.clip import load_encoder
from mlclip.heads import FeatureShapes, build_head

IMAGES = Path(__file__).parents[2] / "demo" / "data" / "images"


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once: waiting moves the clock, computing does not."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        select = self._selector.select

        def jump(timeout):
            events = select(0)
            if not events:
                assert timeout is not None, "everybody waits, and nothing will ever come"
                self.now += max(0.0, timeout)
            return events

        self._selector.select = jump

    def time(self):
        return self.now


@pytest.fixture
def run_virtual():
    """Run a coroutine in virtual time; inside, `asyncio.get_running_loop().now` can be pushed on by hand."""

    def run(coroutine):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(coroutine)

    return run


@pytest.fixture
def make_window():
    """Make a window in which these latencies, in seconds, were seen."""

    def make(latencies, seconds=1.0, errors=None, lag=0.0):
        histogram = Histogram()
        for latency in latencies:
            histogram.add(latency)
        return Window(seconds, math.fsum(latencies), histogram, errors or {}, lag * len(latencies), len(latencies))

    return make


@pytest.fixture
def make_line():
    """Make a line of load.jsonl."""

    def make(load, windows, *, purpose="sweep", models=None, ensembles=None, client_cores=0.1, unanswered=0):
        closed = hasattr(load, "concurrency")
        return {
            "mode": "closed" if closed else "open",
            "level": load.concurrency if closed else load.rate,
            "purpose": purpose,
            "target": 0.2,
            "windows": [window.to_dict() for window in windows],
            "unanswered": unanswered,
            "messages": {},
            "models": models or {},
            "ensembles": ensembles or {},
            "resources": {
                "server_cores": 1.5,
                "server_rss": 600 * 2**20,
                "client_cores": client_cores,
                "client_rss": 300 * 2**20,
                "client_rss_before": 290 * 2**20,
                "other_cores": 0.05,
                "host_cpu": None,
                "host_memory": None,
            },
            "setting": {
                "server": "model_repository",
                "started_here": True,
                "questions": {"heads": ["mld"], "via": "bytes", "timeout": 30.0, "seed": 0},
                "images": {"count": 5, "mean_bytes": 4000, "sha256": "0" * 64},
                "pace": {"window": 5.0, "requests": 100, "arrivals": 300, "warmup": 2.0, "windows": 10},
            },
            "provenance": {"commit": "abc1234", "machine": "two cores", "time": "2026-01-02T03:04:05+00:00"},
        }

    return make


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with five of the demo's images."""
    folder = tmp_path_factory.mktemp("images")
    for path in sorted(IMAGES.iterdir())[:5]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """A model repository with two untrained heads on mlclip-lite."""
    encoder = load_encoder()
    shapes = FeatureShapes(encoder.embedding_width, encoder.token_count, encoder.token_width)
    runs = {}
    for name in ("sigmoid", "plain"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            head = build_head("sigmoid", 5, shapes)
        labels, thresholds = tuple("abcde"), np.full(5, 0.5, dtype=np.float32)
        runs[name] = Run(head.eval(), labels, thresholds, EncoderRef.of(encoder))
    folder = tmp_path_factory.mktemp("served") / "model_repository"
    export_runs(runs, folder, encoders=[encoder])
    return folder
