"""Addresses that fsspec reaches: s3://, gs://, az://, memory://, ..."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.registry import known_implementations  # type: ignore[import-untyped]

WEB = frozenset({"http", "https"})
STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory"})
"""Stores whose addresses name a bucket, not a machine: whoever writes a list cannot point them into your network."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(name: str) -> str:
    """Give what stands before `://`, in lower case; empty for a path."""
    match = _SCHEME.match(name)
    return match.group(1).lower() if match else ""


def is_address(name: str) -> bool:
    """Tell whether a name is an address rather than a path of this machine."""
    return bool(scheme_of(name))


def locate(address: str) -> tuple[Any, str]:
    """Find the file system of an address, and the path there.

    Raises:
        ValueError: fsspec knows no such address, a package is missing (the message names it), or several addresses
            are chained, which would reach the web past the checks of `web`.
    """
    if "::" in address:
        raise ValueError(f"{address}: chained addresses (::) are not read")
    scheme = scheme_of(address)
    try:
        fs, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise ValueError(f"{scheme}:// needs a package: {_install(scheme, error)}") from error
    except Exception as error:  # unknown schemes, missing credentials: whatever a file system raises on its way up
        raise ValueError(f"{address}: {one_line(error)}") from error
    return fs, str(path)


def open_remote(address: str) -> Any:
    """Open the file at an address.

    Raises:
        OSError: it is not there, or cannot be opened.
        ValueError: see `locate`.
    """
    fs, path = locate(address)
    try:
        return fs.open(path, "rb")
    except OSError:
        raise
    except Exception as error:  # each store has errors of its own
        raise OSError(one_line(error)) from error


def find_remote(address: str, unreadable: list[str]) -> Iterator[str]:
    """Give the addresses of all files below a folder, sorted by name, folder by folder.

    Args:
        address: of the folder.
        unreadable: receives folders that could not be listed, with the reason.
    """
    fs, path = locate(address)
    waiting = [(path, True)]
    while waiting:
        name, is_folder = waiting.pop()
        if is_folder:
            waiting += reversed(_entries(fs, name, unreadable))
        else:
            yield str(fs.unstrip_protocol(name))


def _entries(fs: Any, folder: str, unreadable: list[str]) -> list[tuple[str, bool]]:
    try:
        entries = [(str(entry["name"]), entry["type"] == "directory") for entry in fs.ls(folder, detail=True)]
    except Exception as error:  # each store has errors of its own
        unreadable.append(f"{fs.unstrip_protocol(folder)}: {one_line(error)}")
        return []
    return sorted(entry for entry in entries if entry[0].rstrip("/") != folder.rstrip("/"))  # stores mark folders


def match_remote(pattern: str) -> list[str]:
    """Give the addresses that a glob pattern matches, sorted.

    Raises:
        ValueError: see `locate`; or the store cannot be asked.
    """
    fs, path = locate(pattern)
    return sorted(str(fs.unstrip_protocol(name)) for name in _asked(functools.partial(fs.glob, path), pattern))


def kind_of(address: str) -> str:
    """Tell whether an address is a `folder`, a `file` or `nothing`.

    Raises:
        ValueError: see `locate`; or the store cannot be asked.
    """
    fs, path = locate(address)
    if _asked(functools.partial(fs.isfile, path), address):
        return "file"
    return "folder" if _asked(functools.partial(fs.isdir, path), address) else "nothing"


def one_line(error: BaseException) -> str:
    """Give an error's message on one line, its type where it has none."""
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__


def _asked(ask: Any, address: str) -> Any:
    try:
        return ask()
    except Exception as error:  # each store has errors of its own: no credentials, no such bucket, no network
        raise ValueError(f"{address}: {one_line(error)}") from error


def _install(scheme: str, error: ImportError) -> str:
    home = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
    return one_line(error) if home in ("", "fsspec") else f"pip install {home}"
