"""Outputs of all commands: which may be written, and how an interrupted one is called."""

import os
import sys
from pathlib import Path

from mlclip_client.files import behind_links, is_stream

FORMATS = (".parquet", ".jsonl")
"""Suffixes of the files that rows are written to."""


def check_output(out: str | Path, *suffixes: str) -> None:
    """Raise ValueError if an output, a path or `-` for stdout, cannot be written: called before any work.

    The suffixes are those of the formats that can be written; a device or a pipe may have any name.
    """
    if str(out) == "-":
        if sys.stdout is None:
            raise ValueError(f"--out - stands for stdout, which is closed: write to a {' or '.join(suffixes)} file")
        return
    path = Path(out)
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise ValueError(f"--out {path}: no permission to write to it")
        return
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out {path}: write to a {' or '.join(suffixes)} file")
    folder = behind_links(path).parent
    if path.is_dir():
        raise ValueError(f"--out {path}: this is a folder")
    if not folder.is_dir():
        raise ValueError(f"--out {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--out {path}: no permission to write into {folder}")


def partial_name(out: str) -> str:
    """Name the file with the rows of an interrupted run: `labels.partial.parquet` for `labels.parquet`."""
    path = Path(out)
    if out == "-" or is_stream(path):
        return out
    path = behind_links(path)
    return str(path.with_name(f"{path.stem}.partial{path.suffix}"))
