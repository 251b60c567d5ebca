"""From the names of a command line to items, lazily and in a fixed order."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import bracex

from mlclip_client.inputs.archives import read_archive
from mlclip_client.inputs.columns import base_of, local_path, place_item
from mlclip_client.inputs.folders import find_in_folder, image_suffixes
from mlclip_client.inputs.item import Item, file_item
from mlclip_client.inputs.lines import read_names
from mlclip_client.inputs.manifests import open_manifest
from mlclip_client.inputs.skipped import ARCHIVES, LISTS, MANIFESTS, InputOptions, Skipped
from mlclip_client.inputs.stores import WEB, find_remote, is_address, kind_of, match_remote, one_line, scheme_of
from mlclip_client.inputs.streams import open_place

STDIN = "-"
_LONGEST_NAME = 2**20
_MOST_BRACES = 100_000
Source = Callable[[], Iterator[Item]]


def find_inputs(names: Iterable[str], options: InputOptions, found: Skipped) -> Iterator[Item]:
    """Find the inputs that some names stand for.

    A name is a file, a folder, a tar archive, a manifest, a .txt list, an address (http and https, and what fsspec
    knows: folders, archives, manifests and lists there too), or `-` for a list on stdin. Where no file is called so, it
    may be a pattern with `*`, `?`, `[...]` or `{a,b}`, `{000..009}`. What a folder or an archive holds is taken if its
    suffix is one of an image; what is named is always taken. All names are checked before this returns; items come
    as they are asked for, those of stdin as soon as their line is there.

    Args:
        names: read to the end at once.
        options: how to read manifests and lists.
        found: receives the counts.

    Raises:
        ValueError: a name stands for nothing, or for something that cannot be read; or there is nothing that an
            option is about.
    """
    plan = _Plan(options, found)
    for name in names:
        plan.add(name)
    plan.check_options()
    return chain.from_iterable(source() for source in plan.sources)


@dataclass
class _Plan:
    """What to enumerate, in order; files that were named one after the other share a source."""

    options: InputOptions
    found: Skipped
    sources: list[Source] = field(default_factory=list)
    seen: set[tuple[int, int]] = field(default_factory=set)
    files: list[str] = field(default_factory=list)
    has_stdin: bool = False
    has_lists: bool = False
    has_manifests: bool = False

    def add(self, name: str) -> None:
        if name == STDIN:
            self._add_stdin()
        elif scheme_of(name) in WEB:
            self._add_web(name)
        elif scheme_of(name) in ("file", "local"):
            self._add_local(local_path(name))
        elif is_address(name):
            self._add_remote(name)
        else:
            self._add_local(name)

    def check_options(self) -> None:
        if self.options.column is not None and not self.has_manifests:
            raise ValueError(f"--column {self.options.column}: no manifest is named ({', '.join(MANIFESTS)})")
        if self.options.nul and not self.has_lists:
            raise ValueError("--null: neither a list (.txt) nor - for stdin is named")

    def _add_stdin(self) -> None:
        if self.has_stdin:
            raise ValueError("- was named twice: stdin can be read once")
        if sys.stdin is None:
            raise ValueError("- stands for stdin, which is closed: pipe a list into it")
        self.has_stdin = self.has_lists = True
        self._then(partial(_stdin, self.options, self.found))

    def _add_web(self, name: str) -> None:
        path = name.partition("?")[0].partition("#")[0].lower()
        if path.endswith(ARCHIVES + MANIFESTS + LISTS):
            raise ValueError(f"{name}: archives, manifests and lists are not read from the web: download it first")
        self._then(partial(iter, (Item(name, "url", name),)))

    def _add_local(self, name: str) -> None:
        if "\0" in name:
            raise ValueError(f"{name!r}: no file has a NUL in its name")
        if os.path.lexists(name):
            self._add_existing(name)
            return
        matches = [match for pattern in _without_braces(name) for match in _match_local(pattern, name)]
        for match in matches:
            self._add_existing(match)

    def _add_existing(self, name: str) -> None:
        if os.path.isdir(name):
            self._then(partial(_folder, name, self.found, self.seen))
        elif name.lower().endswith(ARCHIVES + MANIFESTS + LISTS) and os.path.isfile(name):
            self._add_container(name)
        else:
            if not self.files:
                self.sources.append(partial(map, file_item, self.files))
            self.files.append(os.fspath(Path(name)))

    def _add_remote(self, name: str) -> None:
        for address in _without_braces(name):
            kind = kind_of(address)
            if kind == "nothing" and glob.has_magic(address):
                matches = match_remote(address)
                if not matches:
                    raise ValueError(f"nothing matches {address}")
                for match in matches:
                    self._add_there(match, kind_of(match))
            else:
                self._add_there(address, kind)

    def _add_there(self, address: str, kind: str) -> None:
        if kind == "nothing":
            raise ValueError(f"no such file or folder: {address}")
        if kind == "folder":
            self._then(partial(_remote_folder, address, self.found))
        elif address.lower().endswith(ARCHIVES + MANIFESTS + LISTS):
            self._add_container(address)
        else:
            self._then(partial(iter, (Item(address, "remote", address),)))

    def _add_container(self, name: str) -> None:
        name = name if is_address(name) else os.fspath(Path(name))
        if name.lower().endswith(ARCHIVES):
            self._then(partial(read_archive, name, self.found))
        elif name.lower().endswith(MANIFESTS):
            self.has_manifests = True
            self._then(open_manifest(name, self.options.column, self.found))
        else:
            self.has_lists = True
            self._then(partial(_list, name, self.options, self.found))

    def _then(self, source: Source) -> None:
        self.files = []
        self.sources.append(source)


def _without_braces(name: str) -> list[str]:
    """What `{a,b}` and `{000..009}` in a name stand for, as in a shell."""
    if "{" not in name:
        return [name]
    try:
        return bracex.expand(name.replace("\\", "\\\\"), limit=_MOST_BRACES)
    except bracex.ExpansionLimitException as error:
        raise ValueError(f"{name}: the braces stand for more than {_MOST_BRACES:,} names") from error


def _match_local(pattern: str, name: str) -> list[str]:
    if os.path.lexists(pattern):
        return [pattern]
    matches = sorted(glob.iglob(pattern, recursive=True)) if glob.has_magic(pattern) else []
    if not matches:
        what = "nothing matches" if glob.has_magic(pattern) else "no such file or folder:"
        raise ValueError(f"{what} {pattern}" + ("" if pattern == name else f" (from {name})"))
    return matches


def _folder(name: str, found: Skipped, seen: set[tuple[int, int]]) -> Iterator[Item]:
    for path in find_in_folder(Path(name), found, seen):
        yield file_item(os.fspath(path))


def _remote_folder(address: str, found: Skipped) -> Iterator[Item]:
    for name in find_remote(address, found.unreadable):
        if os.path.splitext(name)[1].lower() in image_suffixes():
            yield Item(name, "remote", name)
        else:
            found.leave(name)


def _list(name: str, options: InputOptions, found: Skipped) -> Iterator[Item]:
    try:
        with open_place(name) as file:
            yield from _listed(read_names(file, _LONGEST_NAME, options.nul), base_of(name), name, found)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        yield file_item(name, f"read: the list cannot be read to its end: {reason}")


def _stdin(options: InputOptions, found: Skipped) -> Iterator[Item]:
    yield from _listed(read_names(sys.stdin.buffer, _LONGEST_NAME, options.nul), "", "stdin", found)


def _listed(lines: Iterable[tuple[int, str | None]], base: str, name: str, found: Skipped) -> Iterator[Item]:
    for number, text in lines:
        where = f"{name}:{number}"
        if text is None:
            yield file_item(where, f"read: the line is longer than {_LONGEST_NAME:,} bytes")
        elif not text.strip():
            found.skipped["empty lines"] += 1
        else:
            yield place_item(text, "path", base, where, None)
