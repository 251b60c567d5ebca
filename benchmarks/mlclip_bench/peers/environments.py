"""A virtual environment per peer, built once and used again until its requirements change."""

import shutil
import subprocess
import sys
from pathlib import Path

from mlclip_bench.peers.catalogue import Peer, PeerError

DEFAULT_ENVS = Path.home() / ".cache" / "mlclip" / "peers"
STAMP = "mlclip-requirements.txt"  # written into an environment last, so that an incomplete one is built again


def interpreter(peer: Peer, envs: Path) -> Path:
    """The Python of a peer; builds its environment if there is none with these requirements, or raises PeerError."""
    if not peer.requirements:
        return Path(sys.executable)
    folder = envs / peer.name
    if not is_built(peer, envs):
        _build(peer, folder)
    return _python(folder)


def is_built(peer: Peer, envs: Path) -> bool:
    """Whether a peer's environment exists, or it needs none."""
    stamp = envs / peer.name / STAMP
    return not peer.requirements or (stamp.is_file() and stamp.read_text() == _stamp(peer))


def _build(peer: Peer, folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], "venv")
        pip = [sys.executable, "-m", "pip", "--python", str(_python(folder)), "--disable-pip-version-check"]
        _run([*pip, "install", "--quiet", *peer.requirements], "pip")
    except (OSError, PeerError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise PeerError(f"not installed: {error}") from error
    (folder / STAMP).write_text(_stamp(peer))


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"{name}: {last_error(done.stderr + done.stdout) or f'exit code {done.returncode}'}")


def last_error(output: str) -> str:
    """The line of a program's output that says best what went wrong: the last error, or the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or [""])[-1][:300]


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _stamp(peer: Peer) -> str:
    """The requirements, and the version of Python for which they were installed."""
    return "".join(f"{line}\n" for line in (f"# Python {sys.version.split()[0]}", *peer.requirements))
