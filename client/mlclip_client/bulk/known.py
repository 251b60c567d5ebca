"""Files that an investigation knows already, by their hashes: no server is asked about them."""

from __future__ import annotations

import re
from pathlib import Path

_HASH = re.compile(r"\\?([0-9A-Fa-f]{64})(?:\s.*)?", re.DOTALL)  # sha256sum marks escaped names with a backslash


def read_known(path: Path | None) -> frozenset[bytes]:
    """Read the SHA-256 hashes of a list, one per line, as `sha256sum` writes them; none without a list.

    Raises ValueError for a line that is neither empty, a comment (`#`) nor starts with 64 hex digits.
    """
    known = set[bytes]()
    if path is not None:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(map(str.strip, lines), 1):
                found = _HASH.fullmatch(line)
                if found:
                    known.add(bytes.fromhex(found[1]))
                elif line and not line.startswith("#"):
                    raise ValueError(f"{path}, line {number:,}: no SHA-256 hash of 64 hex digits: {line[:80]}")
    return frozenset(known)
