"""Who works on what: a lock on one byte of a file for each shard.

The system gives locks back when a process ends, however it ends, so that nobody waits for a worker that was killed.
They are POSIX record locks: they also hold between machines on NFS 4, and not between threads of one process.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_WHOLE = 0
_FIRST = 1


class Claims:
    """The claims of this process on the shards of a job.

    Args:
        file: made where it is missing.
    """

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def take(self, shard: int) -> bool:
        """Claim a shard; false where another process has it."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FIRST + shard)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def free(self, shard: int) -> None:
        """Give a shard back."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _FIRST + shard)

    def take_whole(self) -> None:
        """Wait until no other process plans this job, and claim planning."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, _WHOLE)

    def free_whole(self) -> None:
        """Let others go on."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _WHOLE)

    def close(self) -> None:
        """Give all back."""
        os.close(self._descriptor)
