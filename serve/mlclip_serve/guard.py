"""Become a server program that leaves nothing behind, however it or its parent ends.

Run as a file: `python guard.py PARENT SWEPT REGIONS PROGRAM [ARGUMENT...]`, in a session of its own.

* The kernel kills the program when PARENT, a process id, dies: a launcher killed with SIGKILL leaves no server.
* A sweeper, a small process of its own, waits for the program's end. It then kills what is left of the
  program's group (a model's process can hang forever in a lock that the server held) and removes the shared
  memory whose name begins with REGIONS. It keeps SWEPT, a file descriptor, open until that is done.

* No file of the program can grow beyond half a GiB, shared memory and the log included: Triton takes requests of up to
  2 GiB, and each region keeps the size of the largest one. A request that needs more fails. (Python ignores SIGXFSZ,
  and so do the programs that it starts.)

Only the standard library is used. The program keeps the process id of the guard that it replaces.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_LARGEST_FILE = 512 << 20
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h; the setting survives an exec and is not inherited by a fork


def main() -> None:
    """Start the sweeper, then replace this process by the program."""
    parent, swept, regions, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    _ask_for_signal_at_death_of_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was asked
        sys.exit(1)
    server = os.getpid()
    if os.fork() == 0:
        _sweep_after(server, regions)
        os._exit(0)
    os.set_inheritable(swept, False)
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    largest = _LARGEST_FILE if allowed == resource.RLIM_INFINITY else min(_LARGEST_FILE, allowed)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    os.execv(program, sys.argv[4:])


def _sweep_after(server: int, regions: str) -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    _ask_for_signal_at_death_of_parent(signal.SIGUSR1)
    if os.getppid() == server:
        signal.sigwait({signal.SIGUSR1})
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    for region in Path("/dev/shm").glob(f"{regions}*"):
        region.unlink(missing_ok=True)


def _ask_for_signal_at_death_of_parent(number: signal.Signals) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


if __name__ == "__main__":
    main()
