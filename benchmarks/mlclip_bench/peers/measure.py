"""Measure: load all peers, compare their vectors outside the clock, then let them take turns, round by round.

A peer that cannot be installed, loaded or used becomes a line with its error, and the others go on. In a round all
peers see the same images in the same order; another round has another order.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlclip_serve import ServeError, Server

from mlclip.provenance import provenance
from mlclip_bench.peers.agreement import compare
from mlclip_bench.peers.catalogue import BASE, Peer, PeerError
from mlclip_bench.peers.material import Material
from mlclip_bench.peers.process import PeerProcess
from mlclip_bench.peers.raw import Raw

Seen = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        images: the files, each seen once a round by every peer.
        rounds: how often.
        batch: images a batch, for peers that build their own.
        concurrency: requests under way, for peers that ask the server.
        seed: of the images' order.
        deadline: seconds for any one answer of a peer.
    """

    images: tuple[Path, ...]
    rounds: int = 9
    batch: int = 32
    concurrency: int = 64
    seed: int = 0
    deadline: float = 600.0


def measure(
    plan: Plan, pythons: Mapping[Peer, Path], material: Material, raw: Raw, on_line: Seen = lambda line: None
) -> None:
    """Measure and write raw lines as they come.

    Args:
        plan: what is measured.
        pythons: the peers in their order, each with the interpreter that runs it.
        material: weights and model repository.
        raw: where lines go, which already tells of the setting and of peers that could not be installed.
        on_line: called with every line.
    """
    bench = _Bench(plan, raw, on_line)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlclip-peers-")))
        settings = material.settings() | {
            "batch": plan.batch,
            "concurrency": plan.concurrency,
            "deadline": plan.deadline,
        }
        url = _serve(material, [peer for peer in pythons if peer.served], bench, stack)
        running = []
        for peer, python in pythons.items():
            if peer.name not in bench.failed:
                process = stack.enter_context(PeerProcess(peer, python, scratch / f"{peer.name}.log"))
                if bench.load(process, settings | {"url": url}):
                    running.append(process)
        bench.check(running, scratch)
        for number in range(plan.rounds):
            images = _write_list(scratch / "round.json", shuffled(plan.images, plan.seed + number))
            for process in running:
                bench.time(process, number, images)


def setting(plan: Plan, material: Material, peers: Sequence[Peer], classes: int) -> dict[str, Any]:
    """What the raw file's first line tells: the plan, the encoder, the peers, and where it was measured."""
    return {
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
    """Give the images in the order of one round."""
    return [images[index] for index in np.random.default_rng(seed).permutation(len(images))]


class _Bench:
    """Asks peers, writes what comes back, and remembers who has failed."""

    def __init__(self, plan: Plan, raw: Raw, on_line: Seen) -> None:
        self.plan, self.raw, self.on_line = plan, raw, on_line
        self.failed: set[str] = set()

    def load(self, process: PeerProcess, settings: dict[str, Any]) -> bool:
        """Let a peer load; tells whether it did."""
        answer = self._ask(process, {"do": "load", **settings}, "load")
        if answer is not None:
            self._write("ready", peer=process.peer.name, seconds=answer["seconds"], about=answer["about"])
        return answer is not None

    def check(self, running: Sequence[PeerProcess], scratch: Path) -> None:
        """Let every peer see all images once, which warms it up and gives the vectors to compare."""
        images, base = _write_list(scratch / "all.json", self.plan.images), None
        for process in running:
            name, file = process.peer.name, scratch / f"{process.peer.name}.npy"
            if not process.peer.vectors:
                self._ask(process, {"do": "run", "list": images}, "warm-up")
            elif self._ask(process, {"do": "vectors", "list": images, "file": str(file)}, "warm-up"):
                vectors = np.load(file, allow_pickle=False)
                base = vectors if name == BASE else base
                if base is not None:
                    try:
                        self._write("agreement", peer=name, **compare(vectors, base))
                    except ValueError as error:
                        self.fail(name, "warm-up", str(error))

    def time(self, process: PeerProcess, number: int, images: str) -> None:
        """Take one peer's time in one round."""
        if process.peer.name not in self.failed:
            answer = self._ask(process, {"do": "run", "list": images}, f"round {number + 1}")
            if answer is not None:
                self._write(
                    "time", peer=process.peer.name, round=number, images=answer["images"], seconds=answer["seconds"]
                )

    def fail(self, name: str, stage: str, error: str) -> None:
        """Write that a peer failed, and ask it no more."""
        self.failed.add(name)
        self._write("failed", peer=name, stage=stage, error=error)

    def _ask(self, process: PeerProcess, request: dict[str, Any], stage: str) -> dict[str, Any] | None:
        try:
            return process.ask(request, self.plan.deadline)
        except PeerError as error:
            self.fail(process.peer.name, stage, str(error))
            return None

    def _write(self, kind: str, **values: Any) -> None:
        self.on_line(self.raw.append(kind, **values))


def _serve(material: Material, asking: Sequence[Peer], bench: _Bench, stack: ExitStack) -> str | None:
    """Start the server for those that ask one; gives its address. Where it does not start, they have failed."""
    if not asking:
        return None
    try:
        return stack.enter_context(Server(material.repository, ready_timeout=bench.plan.deadline)).grpc_url
    except (ServeError, OSError) as error:
        for peer in asking:
            bench.fail(peer.name, "load", f"the server did not start: {error}")
        return None


def _write_list(file: Path, images: Sequence[Path]) -> str:
    file.write_text(json.dumps([str(path.absolute()) for path in images]))
    return str(file)
