"""Files and folders at addresses that fsspec reaches, such as s3:// and gs://."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import fsspec  # type: ignore[import-untyped]
from fsspec.registry import known_implementations  # type: ignore[import-untyped]

from mlclip_client.errors import DownloadFailed
from mlclip_client.images import check_size
from mlclip_client.names import scheme_of
from mlclip_client.wording import reason_of

STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory"})
"""Schemes of addresses that name a bucket, not a machine: a list from elsewhere cannot point them into your network."""


def open_remote(address: str) -> Any:
    """Open the file at an address; raises OSError.

    Raises ValueError if fsspec does not know the address, a package is missing (the message names it), or addresses are
    chained, which would reach the web without the checks of `web`.
    """
    fs, path = _locate(address)
    try:
        return fs.open(path, "rb")
    except OSError:
        raise
    except Exception as error:  # each store has errors of its own
        raise OSError(reason_of(error)) from error


def download(address: str, max_bytes: int) -> bytes:
    """Read the whole file at an address; raises DownloadFailed or TooLarge."""
    try:
        fs, path = _locate(address)
        size = fs.size(path) or 0
        data = b"" if size > max_bytes else bytes(fs.cat_file(path))
    except FileNotFoundError as error:
        raise DownloadFailed("no such file") from error
    except Exception as error:  # each store has errors of its own
        raise DownloadFailed(reason_of(error)) from error
    check_size(max(size, len(data)), max_bytes)
    return data


def list_remote(address: str, unreadable: list[str]) -> Iterator[str]:
    """Give the addresses of all files below a folder, sorted by name, folder by folder.

    Folders that cannot be listed are added to `unreadable`, with the reason.
    """
    fs, path = _locate(address)
    waiting = [(path, True)]
    while waiting:
        name, is_folder = waiting.pop()
        if is_folder:
            waiting += reversed(_entries(fs, name, unreadable))
        else:
            yield str(fs.unstrip_protocol(name))


def match_remote(pattern: str) -> list[str]:
    """Give the addresses that a glob pattern matches, sorted; raises ValueError as `kind_at` does."""
    fs, path = _locate(pattern)
    with _refused(pattern):
        return sorted(str(fs.unstrip_protocol(name)) for name in fs.glob(path))


def kind_at(address: str) -> Literal["file", "folder", ""]:
    """Tell what is at an address, if anything; raises ValueError as `open_remote`, or if the store does not answer."""
    fs, path = _locate(address)
    with _refused(address):
        return "file" if fs.isfile(path) else "folder" if fs.isdir(path) else ""


def _locate(address: str) -> tuple[Any, str]:
    if "::" in address:
        raise ValueError(f"{address}: chained addresses (::) are not read")
    scheme = scheme_of(address)
    try:
        fs, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
        remedy = reason_of(error) if package in ("", "fsspec") else f"pip install {package}"
        raise ValueError(f"{scheme}:// needs a package: {remedy}") from error
    except Exception as error:  # unknown schemes, missing credentials: a file system may raise anything when it starts
        raise ValueError(f"{address}: {reason_of(error)}") from error
    return fs, str(path)


def _entries(fs: Any, folder: str, unreadable: list[str]) -> list[tuple[str, bool]]:
    try:
        entries = [(str(entry["name"]), entry["type"] == "directory") for entry in fs.ls(folder, detail=True)]
    except Exception as error:  # each store has errors of its own
        unreadable.append(f"{fs.unstrip_protocol(folder)}: {reason_of(error)}")
        return []
    return sorted(entry for entry in entries if entry[0].rstrip("/") != folder.rstrip("/"))  # stores mark folders


@contextmanager
def _refused(address: str) -> Iterator[None]:
    """What a store raises (no credentials, no such bucket, no network, …) becomes ValueError with the address."""
    try:
        yield
    except Exception as error:  # each store has errors of its own
        raise ValueError(f"{address}: {reason_of(error)}") from error
