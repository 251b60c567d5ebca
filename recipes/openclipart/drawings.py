"""What the SVG files of Debian's `openclipart-svg` say about themselves: keywords, title, licence; and their labels.

Each file has Dublin Core terms in an RDF block (https://www.w3.org/TR/rdf-syntax-grammar/). Some hold e-mail addresses,
and `HASH(0x...)` where the uploader's program printed a reference instead of a text.

Labels are keywords and folder names, made uniform: lower case, `_` and `-` as spaces, commas separate. `spellings.tsv`
has what becomes another label, and what is dropped since it names a file format, a library, a person or nothing. A
plain plural becomes its singular where some picture has that.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mlclip.errors import DataError

LONGEST = 26
MOST_WORDS = 2
LONG_LABELS = frozenset({"united nations member"})

_DC = "{http://purl.org/dc/elements/1.1/}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"HASH\(0x[0-9a-f]+\)")
_PART_OF_REFERENCE = re.compile(r"(hash)?(\(?0x[0-9a-f]+\)?)?", re.IGNORECASE)
_ADDRESS = re.compile(r"[(<\[]?\s*[\w.+-]+@[\w-]+\.[\w.-]*\w\s*[)>\]]?")
_SPELLINGS = dict(
    line.split("\t") for line in Path(__file__).with_name("spellings.tsv").read_text(encoding="utf-8").splitlines()
)


@dataclass(frozen=True)
class Drawing:
    """One SVG file's own words."""

    source: str  # its path below `svg/` without the suffix; the picture is at the same path below `png/`
    keywords: tuple[str, ...]  # as typed, in order
    title: str  # may be empty; e-mail addresses are removed
    public_domain: bool  # whether it names the public domain as its licence
    links_outside: bool  # whether it shows another file, which the package does not hold

    def labels(self) -> frozenset[str]:
        """Labels before plurals are folded, from the keywords and the folders that the file is in."""
        typed = (*self.keywords, *self.source.split("/")[:-1])
        words = [part.strip() for word in typed for part in _uniform(word).split(",")]
        named = [label for word in words for label in _SPELLINGS.get(word, word).split(",")]
        return frozenset(filter(_is_label, named))


def find_drawings(svg: Path) -> Iterator[tuple[str, Path]]:
    """Source and path of every SVG below a folder, including links: a folder's own files first, by name."""
    for folder, subfolders, files in os.walk(svg):
        subfolders.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix == ".svg":
                yield path.relative_to(svg).with_suffix("").as_posix(), path


def read_drawing(source: str, path: Path) -> Drawing:
    """Read one SVG file; raises DataError if it is not XML."""
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
        public_domain=any("publicdomain" in value.lower() for value in licences),
        links_outside=any(target and not target.startswith(("data:", "#")) for target in pictures),
    )


def singulars(labels: Iterable[frozenset[str]]) -> Mapping[str, str]:
    """Which plural becomes which singular: `cats` → `cat` where a picture is labelled `cat`."""
    known = frozenset().union(*labels)
    forms = {label: label[:-3] + "y" if label.endswith("ies") else label[:-1] for label in known if label[-1:] == "s"}
    return {label: form for label, form in forms.items() if form in known}


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


def _uniform(word: str) -> str:
    """Lower case, `_` and `-` and XML entities as spaces, no space twice, no dot at the end."""
    return re.sub(r"([\s_-]|&\w+;)+", " ", word.lower()).strip(" .")


def _is_label(word: str) -> bool:
    fits = 2 <= len(word) <= LONGEST and not re.search(r"[\d@()]", word)
    return fits and (len(word.split()) <= MOST_WORDS or word in LONG_LABELS)
