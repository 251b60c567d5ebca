"""Images in tar archives, webdataset's shards among them: found without unpacking anything to a disk.

A member's name is a label and nothing else, so it may say what it likes. The members of a sample, which share their
name up to its first dot, stand beside each other in webdataset's archives; `.txt` and `.json` among them (its
`text`, `caption` or `title`) are the text of its images.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import IO, Any, cast

from mlclip_client.inputs.columns import TEXTS
from mlclip_client.inputs.folders import image_suffixes
from mlclip_client.inputs.item import Item
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.inputs.stores import is_address, one_line
from mlclip_client.inputs.streams import Broken, ReadAt, open_archive

_LARGEST_HEADER = 2**20
_LARGEST_TEXT = 2**20
_LARGEST_SAMPLE = 64
_LOOK_BACK = 4 * 2**20
_BLOCK = 512
_STEM = re.compile(r"((?:.*/)?[^/.]+)\.[^/]*", re.DOTALL)


@dataclass(frozen=True)
class _Member:
    """A member that is there to its last byte, with what it says if it is a text."""

    info: tarfile.TarInfo
    text: str | None


def read_archive(place: str, found: Skipped) -> Iterator[Item]:
    """Give an item for every image in an archive, in its order; one for the archive itself where that is damaged.

    Args:
        place: a file of this machine or an address, compressed or not.
        found: receives the counts.
    """
    stem, images, texts, text, problem = "", list[Item](), list[str](), None, ""

    def sample() -> Iterator[Item]:
        for name in texts if not images else ():
            found.leave(name)
        yield from (replace(image, text=text) for image in images)

    for member in _members(place, found):
        if isinstance(member, str):
            problem = member
            continue
        name = member.info.name
        if _stem(name) != stem or len(images) >= _LARGEST_SAMPLE:
            yield from sample()
            stem, images, texts, text = _stem(name), [], [], None
        if _suffix(name) in image_suffixes():
            images.append(_item(place, member.info))
        elif member.text is not None:
            texts, text = [*texts, name], member.text
        else:
            found.leave(name)
    yield from sample()
    if problem:
        yield Item(place, "remote" if is_address(place) else "file", place, problem=f"read: {problem}")


def _members(place: str, found: Skipped) -> Iterator[_Member | str]:
    """All whole members but folders, then what is wrong with the archive, if anything is."""
    try:
        with closing(open_archive(place, _LOOK_BACK)) as archive:
            for info in _whole_members(archive.read_at):
                if info.isdir():
                    found.skipped["folders in archives"] += 1
                else:
                    yield _Member(info, _text(info, archive.read_at))
    except (OSError, ValueError, tarfile.TarError, ArithmeticError, RecursionError) as error:
        damaged = isinstance(error, Broken) or not isinstance(error, OSError)
        reason = getattr(error, "strerror", None) or one_line(error)
        yield f"the archive is damaged: {reason}" if damaged else reason


def _whole_members(read_at: ReadAt) -> Iterator[tarfile.TarInfo]:
    """All members that are there to their last byte; raises at the first damage."""
    with tarfile.open(fileobj=cast(IO[bytes], _File(read_at)), mode="r:") as tar:
        while (info := tar.next()) is not None:
            cast(Any, tar).members.clear()  # or they all stay in memory
            if info.size < 0:
                raise Broken(f"the header at byte {info.offset:,} makes no sense")
            end = info.offset_data + info.size
            if info.isreg() and info.size and not info.issparse() and not read_at(end - 1, 1):
                raise Broken(f"it ends in the middle of {info.name}")
            yield info
        _check_end(read_at, tar.offset)


def _check_end(read_at: ReadAt, offset: int) -> None:
    """What tarfile takes for the end may be a damaged header; the true end is a block of zeros, or the file's."""
    block = read_at(offset, _BLOCK)
    if block.strip(b"\0"):
        raise Broken(f"no header at byte {offset:,}")


def _item(place: str, info: tarfile.TarInfo) -> Item:
    problem = ""
    if info.issym() or info.islnk():
        problem = "read: a link inside an archive is not followed"
    elif info.issparse():
        problem = "read: a sparse file inside an archive is not read"
    elif not info.isreg():
        problem = "read: not a regular file"
    path = f"{place}/{info.name}"
    return Item(path, "member", place, info.name, info.offset_data, info.size, problem=problem)


def _text(info: tarfile.TarInfo, read_at: ReadAt) -> str | None:
    suffix = _suffix(info.name)
    if suffix not in (".txt", ".json") or not info.isreg() or info.issparse() or info.size > _LARGEST_TEXT:
        return None
    words = read_at(info.offset_data, info.size).decode("utf-8", "replace")
    return words.strip() or None if suffix == ".txt" else _text_in_json(words)


def _text_in_json(words: str) -> str | None:
    try:
        fields = json.loads(words)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    texts = (fields.get(key) for key in TEXTS)
    return next((clean_text(text) for text in texts if isinstance(text, str) and text), None)


def clean_text(text: str) -> str:
    """Give a text that can be written as UTF-8: half a surrogate pair, or a byte that was none, becomes `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _stem(name: str) -> str:
    match = _STEM.fullmatch(name)
    return match.group(1) if match else name


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


class _File:
    """What tarfile wants to read headers from; no header may claim more than `_LARGEST_HEADER` bytes."""

    def __init__(self, read_at: ReadAt) -> None:
        self._read_at, self._position = read_at, 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < 0:
            raise Broken("a header makes no sense")
        self._position = position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise Broken(f"a header claims {size:,} bytes")
        data = self._read_at(self._position, size)
        self._position += len(data)
        return data
