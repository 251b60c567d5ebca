"""Programs in processes of their own, asked one request at a time; see `worker_protocol` for their side."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Self

from mlclip.errors import MlclipError

PROTOCOL = Path(__file__).parent / "worker_protocol.py"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_GRACE = 10.0  # seconds that a worker has to end by itself once its input has ended


class WorkerError(MlclipError):
    """A worker failed, ended, or did not answer; the message is one line, often the worker's own."""


class Worker:
    """A worker that runs a script for `worker_protocol`; as a context manager, it ends with all that it has started."""

    def __init__(
        self,
        script: Path,
        *arguments: str,
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._received = self._printed = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), "-P", str(PROTOCOL), str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the bench to handle
        )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def load(self, seconds: float | None = None, **settings: Any) -> dict[str, Any]:
        """Let the worker load; see `ask`."""
        return self.ask({"do": "load", **settings}, seconds)

    def run(self, seconds: float | None = None, **arguments: Any) -> dict[str, Any]:
        """Let the worker run; see `ask`."""
        return self.ask({"do": "run", **arguments}, seconds)

    def ask(self, request: Mapping[str, Any], seconds: float | None = None) -> dict[str, Any]:
        """Send a request and wait for the answer, at most some seconds; None: for as long as it takes.

        Requests are short: lists go through files, so that a worker that does not read cannot block the bench. Raises
        WorkerError if the worker answered with an error, and may be asked again; or if it ended, or answered with
        something else or not in time, and is ended now.
        """
        if self._process.returncode is not None:
            raise WorkerError(self._ended())
        with contextlib.suppress(BrokenPipeError):  # it has ended; reading the answer tells how
            self._pipe("stdin").write((json.dumps(request) + "\n").encode())
            self._pipe("stdin").flush()
        line = self._line(seconds)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.kill()
            raise WorkerError(f"answered {line[:80]!r} where the bench expects a JSON object")
        if "error" in answer:
            raise WorkerError(str(answer["error"]))
        return answer

    def printed(self) -> str:
        """All that the worker has printed so far, without escape sequences."""
        if not self._log.closed:  # read without moving the offset, which the worker shares
            descriptor = self._log.fileno()
            self._printed = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        return _ESCAPES.sub("", self._printed.decode(errors="replace"))

    def close(self) -> None:
        """Let the worker end, and kill it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe("stdin").close()
        self._await_end()

    def kill(self) -> None:
        """Kill the worker and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._pipe("stdout").close()
        self.printed()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _await_end(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        self.kill()

    def _line(self, seconds: float | None) -> str:
        pipe = self._pipe("stdout").fileno()
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._received:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                self.kill()
                raise WorkerError(f"no answer within {seconds:g} s")
            received = os.read(pipe, 65536)
            if not received:
                self._await_end()
                raise WorkerError(self._ended())
            self._received += received
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace")

    def _ended(self) -> str:
        code = self._process.returncode
        cause = f"signal {-code}, perhaps out of memory" if code < 0 else f"exit code {code}"
        lines = [line.strip() for line in self.printed().splitlines() if line.strip()]
        return f"ended with {cause}" + (f": {lines[-1][:300]}" if lines else "")

    def _pipe(self, name: str) -> IO[bytes]:
        pipe: IO[bytes] = getattr(self._process, name)
        return pipe
