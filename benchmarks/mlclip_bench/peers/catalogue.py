"""The peers: what each is, what is installed for it, and the script that drives it.

Versions are pinned, and torch is the same for all, so that two runs measure the same programs.
"""

from dataclasses import dataclass
from pathlib import Path

from mlclip.errors import MlclipError

SCRIPTS = Path(__file__).parent / "scripts"
TORCH = ("torch==2.14.1", "torchvision==0.29.1")


class PeerError(MlclipError):
    """A peer cannot be installed or measured; the message is one line, often the peer's own."""


@dataclass(frozen=True)
class Peer:
    """Something that turns image files into vectors or labels."""

    name: str  # short name, also of the folder of its environment
    title: str
    script: Path  # the file with its `load(settings)`; see `scripts/embed.py`
    requirements: tuple[str, ...] = ()  # what pip installs into an environment of its own; empty: it runs in this one
    served: bool = False  # it asks the model server, which is started for it
    vectors: bool = True  # it gives vectors, which are compared with the others'


BASE = "open_clip"  # the peer to which all others are compared as ratios
CLIENT = "mlclip-triton"

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            BASE,
            "open_clip and PyTorch, a plain loop",
            SCRIPTS / "run_open_clip.py",
            ("open_clip_torch==3.3.0", *TORCH),
        ),
        Peer(
            "sentence-transformers",
            "sentence-transformers' CLIP",
            SCRIPTS / "run_sentence_transformers.py",
            ("sentence-transformers[image]==6.2.0", "transformers==5.23.0", *TORCH),
        ),
        Peer(
            "infinity",
            "infinity-emb's CLIP, its Python engine",
            SCRIPTS / "run_infinity.py",
            (
                "infinity-emb[torch,vision]==0.0.78",
                "aiohttp==3.14.5",
                "transformers==4.47.1",
                "optimum==1.27.0",
                *TORCH,
            ),
        ),
        Peer("mlclip-onnx", "mlclip's pixels and ONNX encoder, in one process", SCRIPTS / "run_onnx.py"),
        Peer(CLIENT, "mlclip's client and Triton, with labels", SCRIPTS / "run_served.py", served=True),
        Peer(
            "perf-analyzer",
            "NVIDIA's perf_analyzer on the same server",
            SCRIPTS / "run_perf_analyzer.py",
            ("perf-analyzer==2.60.0",),
            served=True,
            vectors=False,
        ),
        Peer(
            "perf-analyzer-2.48",
            "NVIDIA's perf_analyzer 2.48 (from tritonclient) on the same server",
            SCRIPTS / "run_perf_analyzer.py",
            ("tritonclient==2.48.0", "nvidia-cuda-runtime-cu12==12.9.79"),
            served=True,
            vectors=False,
        ),
    )
}


def choose(names: str | None) -> tuple[Peer, ...]:
    """The peers of a comma-separated list, or all, in the order of PEERS; raises PeerError for an unknown name."""
    wanted = set(PEERS) if names is None else {name.strip() for name in names.split(",")}
    unknown = sorted(wanted - set(PEERS))
    if unknown:
        raise PeerError(f"no peer is called {', '.join(unknown)}: choose from {', '.join(PEERS)}")
    return tuple(peer for name, peer in PEERS.items() if name in wanted)
