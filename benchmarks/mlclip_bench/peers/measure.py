"""Measure: load all peers, compare their vectors outside of any clock, then let them take turns, round by round.

A peer that cannot be installed, loaded or used becomes a line with its error, and the others continue. In a round, all
peers get the same images in the same order; every round has another order.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlclip_serve import ServeError, Server

from mlclip.json_lines import Line
from mlclip.provenance import provenance
from mlclip_bench.kit.workers import Worker, WorkerError
from mlclip_bench.peers.agreement import compare
from mlclip_bench.peers.catalogue import BASE, SCRIPTS, Peer
from mlclip_bench.peers.derive import Results
from mlclip_bench.peers.material import Material

OnLine = Callable[[Line], None]
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "INFINITY_ANONYMOUS_USAGE_STATS": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}
"""A peer reads local folders only, and reports nothing to anybody."""
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    images: tuple[Path, ...]  # the files; every peer gets each once per round
    rounds: int = 9
    batch: int = 32  # images per batch, for peers that build their own
    concurrency: int = 64  # requests under way, for peers that ask the server
    seed: int = 0  # of the order of images
    deadline: float = 600.0  # seconds for any one answer of a peer


def measure(
    plan: Plan, pythons: Mapping[Peer, Path], material: Material, results: Results, on_line: OnLine = lambda line: None
) -> None:
    """Measure the peers in their order, each with its interpreter; every line is written and given to `on_line`.

    The results hold the setting already, and the peers that could not be installed.
    """
    bench = _Bench(plan, results, on_line)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlclip-peers-")))
        settings = material.settings() | {
            "batch": plan.batch,
            "concurrency": plan.concurrency,
            "deadline": plan.deadline,
            "url": _serve(material, [peer for peer in pythons if peer.served], bench, stack),
        }
        for peer, python in pythons.items():
            if peer.name not in bench.failed:
                bench.load(peer, stack.enter_context(start(peer, python)), settings)
        bench.check(scratch)
        for number in range(plan.rounds):
            images = _write_list(scratch / "round.json", shuffled(plan.images, plan.seed + number))
            bench.time(number, images)


def start(peer: Peer, python: Path) -> Worker:
    """Start a peer with the interpreter of its environment."""
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED} | OFFLINE
    return Worker(SCRIPTS / "embed.py", str(peer.script), python=python, environment=environment)


def setting(plan: Plan, material: Material, peers: Sequence[Peer], classes: int) -> Line:
    """The first raw line: the plan, the encoder, the peers, and where it was measured."""
    return {
        "kind": "setting",
        "images": len(plan.images),
        "bytes": sum(path.stat().st_size for path in plan.images),
        "rounds": plan.rounds,
        "batch": plan.batch,
        "concurrency": plan.concurrency,
        "seed": plan.seed,
        "classes": classes,
        "encoder": material.encoder,
        "peers": {peer.name: {"title": peer.title, "requirements": list(peer.requirements)} for peer in peers},
        "base": BASE,
        "provenance": provenance(),
    }


def shuffled(images: Sequence[Path], seed: int) -> list[Path]:
    """The images in the order of one round."""
    return [images[index] for index in np.random.default_rng(seed).permutation(len(images))]


class _Bench:
    """Asks peers, writes what comes back, and remembers which have failed."""

    def __init__(self, plan: Plan, results: Results, on_line: OnLine) -> None:
        self.plan, self.results, self.on_line = plan, results, on_line
        self.running: dict[Peer, Worker] = {}
        self.failed: set[str] = set()

    def load(self, peer: Peer, worker: Worker, settings: Mapping[str, Any]) -> None:
        """Let a peer load; it takes part in all rounds if it did."""
        answer = self._ask(peer, worker, "load", {"do": "load", **settings})
        if answer is not None:
            self._write("ready", peer=peer.name, seconds=answer["seconds"], about=answer["about"])
            self.running[peer] = worker

    def check(self, scratch: Path) -> None:
        """Let every peer see all images once, which warms it up and gives the vectors to compare."""
        images, base = _write_list(scratch / "all.json", self.plan.images), None
        for peer, worker in self.running.items():
            file = scratch / f"{peer.name}.npy"
            request = {"do": "run", "images": images} | ({"vectors": str(file)} if peer.vectors else {})
            if self._ask(peer, worker, "warm-up", request) is None or not peer.vectors:
                continue
            vectors = np.load(file, allow_pickle=False)
            base = vectors if peer.name == BASE else base
            if base is not None:
                try:
                    self._write("agreement", peer=peer.name, **compare(vectors, base))
                except ValueError as error:
                    self.fail(peer, "warm-up", str(error))

    def time(self, number: int, images: str) -> None:
        """Let all peers take their turns in one round."""
        for peer, worker in self.running.items():
            if peer.name not in self.failed:
                answer = self._ask(peer, worker, f"round {number + 1}", {"do": "run", "images": images})
                if answer is not None:
                    self._write("time", peer=peer.name, round=number, **{k: answer[k] for k in ("images", "seconds")})

    def fail(self, peer: Peer, stage: str, error: str) -> None:
        """Write that a peer failed, and ask it no more."""
        self.failed.add(peer.name)
        self._write("failed", peer=peer.name, stage=stage, error=error)

    def _ask(self, peer: Peer, worker: Worker, stage: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        try:
            return worker.ask(request, self.plan.deadline)
        except WorkerError as error:
            self.fail(peer, stage, str(error))
            return None

    def _write(self, kind: str, **values: Any) -> None:
        self.on_line(self.results.append({"kind": kind, **values}))


def _serve(material: Material, asking: Sequence[Peer], bench: _Bench, stack: ExitStack) -> str | None:
    """Start the server for the peers that ask one, and give its address; if it does not start, they have failed."""
    if not asking:
        return None
    try:
        return stack.enter_context(Server(material.repository, ready_timeout=bench.plan.deadline)).grpc_url
    except (ServeError, OSError) as error:
        for peer in asking:
            bench.fail(peer, "load", f"the server did not start: {error}")
        return None


def _write_list(file: Path, images: Sequence[Path]) -> str:
    file.write_text(json.dumps([str(path.absolute()) for path in images]))
    return str(file)
