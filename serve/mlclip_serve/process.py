"""Run a server program in the background, with its output in a log and its end as an event."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from mlclip_serve import guard


class ServerProcess:
    """A program in a session of its own, which never outlives this process; see `guard`.

    A thread of its own starts the program and stays until it ends, because the kernel ties the program's life to the
    thread that started it. `exited` is set once the process has ended, its log is complete, and its remains are
    removed.
    """

    popen: subprocess.Popen[bytes]

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, regions: str, echo: bool = False
    ) -> None:
        """Start the program; raises OSError.

        The command begins with its absolute path; the environment is all that it gets. The log takes stdout and stderr,
        and `echo` shows them too; its folder is the working directory. `regions` begins the names of its shared memory,
        which is removed after its end.
        """
        self.exited = threading.Event()
        self._started = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(
            target=self._keep, args=(command, environment, log, regions, echo), name="mlclip-serve", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def _keep(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path, regions: str, echo: bool
    ) -> None:
        swept, sweeper = os.pipe()
        with log.open("ab") as file, open(swept, "rb") as end:
            try:
                self.popen = subprocess.Popen(
                    [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(sweeper), regions, *command],
                    env=environment,
                    cwd=log.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE if echo else file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=(sweeper,),
                )
            except OSError as error:
                self._failure = error
                return
            finally:
                os.close(sweeper)
                self._started.set()
            if self.popen.stdout is not None:
                with self.popen.stdout as output:
                    _copy(output, file)
            self.popen.wait()
            end.read()  # ends when the sweeper does
        self.exited.set()

    @property
    def exit_code(self) -> int | None:
        """The exit code as a shell shows it (128 + n after signal n); None while the program runs."""
        if not self.exited.is_set():
            return None
        code = self.popen.returncode
        return code if code >= 0 else 128 - code

    def stop(self, grace: float) -> None:
        """End the program with SIGTERM, or with SIGKILL after `grace` seconds."""
        if not self.exited.is_set():
            self.popen.terminate()
            if not self.exited.wait(grace):
                self.popen.kill()
        self._thread.join()

    def kill(self) -> None:
        """End the program at once."""
        if not self.exited.is_set():
            self.popen.kill()
        self._thread.join()


def _copy(output: IO[bytes], log: IO[bytes]) -> None:
    for line in output:
        log.write(line)
        log.flush()
        sys.stderr.write(line.decode(errors="replace"))
