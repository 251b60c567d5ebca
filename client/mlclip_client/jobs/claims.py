"""Which worker has which shard: a lock on one byte of a file per shard.

The system releases the locks of a process however it ends, so no worker waits for one that was killed. They are POSIX
record locks: they also work between machines on NFS 4, but not between threads of one process.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_PLANNING = 0
_FIRST = 1


class Claims:
    """The claims of this process on the shards of a job; the file is created if it does not exist."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self, shard: int) -> bool:
        """Claim a shard; false if another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FIRST + shard)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def free(self, shard: int) -> None:
        """Release a shard."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _FIRST + shard)

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Wait until no other process plans this job, and claim planning while the block runs."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _PLANNING)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _PLANNING)

    def close(self) -> None:
        """Release all claims."""
        os.close(self._descriptor)
