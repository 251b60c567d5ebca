"""The bench's side of the talk with a peer: one JSON object a line, and a deadline for every answer."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from mlclip_bench.peers.catalogue import SCRIPTS, Peer, PeerError

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
"""A peer reads local folders only, and reports to nobody."""
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FAREWELL = 10.0
"""Seconds that a peer has to end by itself once its input has ended."""


class PeerProcess:
    """A running peer; best used as a context manager, which ends it with all that it has started.

    Args:
        peer: who.
        python: the interpreter of its environment.
        log: file for all that it prints.
    """

    def __init__(self, peer: Peer, python: Path, log: Path) -> None:
        self.peer, self._log, self._received = peer, log, b""
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_INHERITED} | OFFLINE
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), "-P", str(SCRIPTS / "speak.py"), str(peer.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,  # Ctrl-C is the bench's to handle
            )

    def ask(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Args:
            request: short; lists go through files, so that a peer that does not read cannot hold up the bench.
            seconds: how long the answer may take.

        Raises:
            PeerError: the peer says that it failed, ended, said something else, or did not answer in time; after
                all but the first it is ended.
        """
        if self._process.returncode is not None:
            raise PeerError(self._ended())
        try:
            self._pipe("stdin").write((json.dumps(request) + "\n").encode())
            self._pipe("stdin").flush()
        except BrokenPipeError:
            pass  # it has ended, and the line that is missing below tells how
        line = self._line(seconds)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.kill()
            raise PeerError(f"said {line[:80]!r} where the bench expects a JSON object")
        if "error" in answer:
            raise PeerError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """Let the peer end, and end it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe("stdin").close()
        self._await_end()

    def kill(self) -> None:
        """End the peer and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe("stdout").close()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _await_end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_FAREWELL)
        self.kill()

    def _line(self, seconds: float) -> str:
        deadline, pipe = time.monotonic() + seconds, self._pipe("stdout").fileno()
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.kill()
                raise PeerError(f"no answer within {seconds:g} s")
            received = os.read(pipe, 65536)
            if not received:
                self._await_end()
                raise PeerError(self._ended())
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _ended(self) -> str:
        printed = _ESCAPES.sub("", self._log.read_text(errors="replace"))
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        last = f": {lines[-1][:300]}" if lines else ""
        return f"ended with exit code {self._process.returncode}{last}"

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe
