"""Notice that a model's files are no longer those that were exported."""

import hashlib
from pathlib import Path

SUMS = "SHA256SUMS"
"""The file in a model's folder that lists the others with their digests, as `sha256sum` writes and checks it."""


def find_damage(folder: Path) -> str | None:
    """Compare a model's folder with its SHA256SUMS; gives what is wrong, None if nothing is or there is no such file.

    Further files are ignored, except a version that was not exported, since Triton may serve it.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return f"{folder / SUMS} cannot be read: {error}"
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name, digest in expected.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # the latter for a name with a NUL
            place = str(folder / name).replace("\0", "\\0")
            return f"{place} cannot be read: {getattr(error, 'strerror', error)}"
        if found != digest:
            return f"{folder / name} is not as it was exported"
    versions = {entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()}
    added = sorted(versions - {name.partition("/")[0] for name in expected})
    return f"{folder / added[0]} was not exported" if added else None
