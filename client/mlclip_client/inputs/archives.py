"""Images in tar archives, such as the shards of webdataset, found without unpacking anything to disk.

A member's name is only a label, so it cannot point outside the archive. The members of a sample share their name up to
its first dot and stand side by side in webdataset's archives; a `.txt` or `.json` among them (its `text`, `caption`
or `title`) is the text of the sample's images. A hard link is the member before it that it names. Archives may follow
each other in one file, as `cat` joins them.
"""

import re
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import IO, Any, cast

from mlclip_client.errors import Unreadable
from mlclip_client.inputs.columns import clean_text
from mlclip_client.inputs.formats import format_of
from mlclip_client.inputs.item import Item, failed_item
from mlclip_client.inputs.skipped import Skipped
from mlclip_client.inputs.streams import Broken, ReadAt, open_archive
from mlclip_client.lines import parse_json
from mlclip_client.names import TEXTS, is_sidecar
from mlclip_client.wording import reason_of

_LARGEST_HEADER = 2**20
_LARGEST_TEXT = 2**20
_LARGEST_SAMPLE = 64
_LOOK_BACK = 4 * 2**20
_BLOCK, _ZEROS = 512, 256 * 2**10
_STEM = re.compile(r"((?:.*/)?[^/.]+)\.[^/]*", re.DOTALL)


@dataclass
class _Sample:
    stem: str = ""
    images: list[Item] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    text: str | None = None

    def items(self, skipped: Skipped) -> Iterator[Item]:
        for name in () if self.images else self.texts:
            skipped.leave(name)
        return (replace(image, text=self.text) for image in self.images)


def read_archive(place: str, skipped: Skipped) -> Iterator[Item]:
    """Give an item for each image of an archive, in its order; if it is damaged, a last item says so."""
    sample, failed, targets = _Sample(), None, None
    try:
        with closing(open_archive(place, _LOOK_BACK)) as archive:
            for info in _whole_members(archive.read_at):
                if info.isdir():
                    skipped.skipped["folders in archives"] += 1
                    continue
                if is_sidecar(info.name):
                    skipped.leave(info.name)
                    continue
                data = info
                if info.islnk():
                    targets = _targets(place, info.offset) if targets is None else targets
                    data = targets.get(info.linkname, info)
                elif targets is not None:
                    targets[info.name] = info
                if _stem(info.name) != sample.stem or len(sample.images) >= _LARGEST_SAMPLE:
                    yield from sample.items(skipped)
                    sample = _Sample(_stem(info.name))
                if format_of(info.name) == "image":
                    sample.images.append(_item(place, info.name, data))
                elif text := _text(info.name, data, archive.read_at):
                    sample.texts.append(info.name)
                    sample.text = text
                else:
                    skipped.leave(info.name)
    except (OSError, ValueError, tarfile.TarError, ArithmeticError, RecursionError) as error:
        is_damaged = isinstance(error, Broken) or not isinstance(error, OSError)
        failed = failed_item(place, ("the archive is damaged: " if is_damaged else "") + reason_of(error))
    yield from sample.items(skipped)
    if failed is not None:
        yield failed


def _whole_members(read_at: ReadAt) -> Iterator[tarfile.TarInfo]:
    """All members that are there to their last byte; raises at the first damage."""
    start: int | None = 0
    while start is not None:
        file = _File(read_at)
        file.seek(start)
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="r:") as tar:
            while (info := tar.next()) is not None:
                cast(Any, tar).members.clear()  # or they all stay in memory
                if info.size < 0:
                    raise Broken(f"the header at byte {info.offset:,} makes no sense")
                end = info.offset_data + info.size
                if info.isreg() and info.size and not info.issparse() and not read_at(end - 1, 1):
                    raise Broken(f"it ends in the middle of {info.name}")
                yield info
            start = _next_archive(read_at, tar.offset)


def _next_archive(read_at: ReadAt, end: int) -> int | None:
    """Where another archive begins behind the end of one, None if nothing follows; raises Broken if it is no end.

    What tarfile takes for the end may be a damaged header; the true end is a block of zeros.
    """
    mark = read_at(end, _BLOCK)
    if mark.strip(b"\0"):
        raise Broken(f"no header at byte {end:,}")
    if len(mark) < _BLOCK:
        raise Broken("it ends without the mark of its end: members may be missing")
    while block := read_at(end, _ZEROS):
        if rest := block.lstrip(b"\0"):
            start = end + (len(block) - len(rest)) // _BLOCK * _BLOCK
            if not _is_header(read_at(start, _BLOCK)):
                raise Broken(f"no header at byte {start:,}, behind the end of an archive")
            return start
        end += len(block)
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _targets(place: str, end: int) -> dict[str, tarfile.TarInfo]:
    """The files before a place in an archive by name: what hard links may name; most archives have none."""
    with closing(open_archive(place, _LOOK_BACK)) as archive:
        members = takewhile(lambda info: info.offset < end, _whole_members(archive.read_at))
        return {info.name: info for info in members if info.isreg()}


def _item(place: str, name: str, info: tarfile.TarInfo) -> Item:
    problem = ""
    if info.issym() or info.islnk():
        problem = "a link inside an archive is not followed"
    elif info.issparse():
        problem = "a sparse file inside an archive is not read"
    elif not info.isreg():
        problem = "not a regular file"
    error = Unreadable(problem) if problem else None
    return Item(f"{place}/{name}", "member", place, name, offset=info.offset_data, size=info.size, error=error)


def _text(name: str, info: tarfile.TarInfo, read_at: ReadAt) -> str | None:
    suffix = name.lower().rpartition(".")[2]
    if suffix not in ("txt", "json") or not info.isreg() or info.issparse() or info.size > _LARGEST_TEXT:
        return None
    words = read_at(info.offset_data, info.size).decode("utf-8", "replace")
    return words.strip() or None if suffix == "txt" else _text_in_json(words)


def _text_in_json(words: str) -> str | None:
    try:
        fields = parse_json(words)
    except ValueError:
        return None
    texts = [fields.get(key) for key in TEXTS] if isinstance(fields, dict) else []
    return next((clean_text(text) for text in texts if isinstance(text, str) and text), None)


def _stem(name: str) -> str:
    match = _STEM.fullmatch(name)
    return match.group(1) if match else name


class _File:
    """What tarfile needs to read headers; no header may claim more than `_LARGEST_HEADER` bytes."""

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
