"""What the SVG files of Debian's `openclipart-svg` say about themselves: keywords, title, author, licence.

Each file carries Dublin Core terms in an RDF block (https://www.w3.org/TR/rdf-syntax-grammar/). Some hold
e-mail addresses, and `HASH(0x...)` where the uploader's program printed a reference instead of a text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mlclip.errors import DataError

_DC = "{http://purl.org/dc/elements/1.1/}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"HASH\(0x[0-9a-f]+\)")
_PART_OF_REFERENCE = re.compile(r"(hash)?(\(?0x[0-9a-f]+\)?)?", re.IGNORECASE)
_ADDRESS = re.compile(r"[(<\[]?\s*[\w.+-]+@[\w-]+\.[\w.-]*\w\s*[)>\]]?")


@dataclass(frozen=True)
class Drawing:
    """One SVG file's own words.

    Attributes:
        source: its path below `svg/` without the suffix; the picture is at the same path below `png/`.
        keywords: as typed, in order.
        title: may be empty.
        author: may be empty; without e-mail addresses, as all texts here.
        public_domain: whether it names the public domain as its licence.
        links_outside: whether it shows another file, which the package does not hold.
    """

    source: str
    keywords: tuple[str, ...]
    title: str
    author: str
    public_domain: bool
    links_outside: bool

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders it lies in, outermost first."""
        return tuple(self.source.split("/")[:-1])


def find_drawings(svg: Path) -> Iterator[tuple[str, Path]]:
    """Source and path of every SVG below a folder, links included: a folder's own files first, by name."""
    for folder, subfolders, files in os.walk(svg):
        subfolders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix == ".svg":
                yield path.relative_to(svg).with_suffix("").as_posix(), path


def read_drawing(source: str, path: Path) -> Drawing:
    """Read one SVG.

    Raises:
        DataError: it is not XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: cannot be read as SVG: {error}") from error
    elements = list(root.iter())
    work = next((element for element in elements if _name(element) == "Work"), root)
    licences = [value for element in elements if _name(element) == "license" for value in element.attrib.values()]
    pictures = [element.get(_HREF, element.get("href", "")) for element in elements if _name(element) == "image"]
    return Drawing(
        source,
        keywords=_keywords(root),
        title=_text(work.find(f"{_DC}title")),
        author=_text(work.find(f"{_DC}creator")),
        public_domain=any("publicdomain" in value.lower() for value in licences),
        links_outside=any(target and not target.startswith(("data:", "#")) for target in pictures),
    )


def _name(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _keywords(root: ElementTree.Element) -> tuple[str, ...]:
    words = [
        (item.text or "").strip()
        for subject in root.iter(f"{_DC}subject")
        for item in subject.iter()
        if _name(item) == "li"
    ]
    return tuple(dict.fromkeys(word for word in words if word and not _PART_OF_REFERENCE.fullmatch(word)))


def _text(element: ElementTree.Element | None) -> str:
    text = "" if element is None else "".join(element.itertext())
    return " ".join(_ADDRESS.sub("", _REFERENCE.sub("", text)).split())
