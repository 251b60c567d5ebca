"""Labels of Open Clip Art pictures: what people typed and where they filed it, made uniform.

Keywords and folder names go to lower case, `_` and `-` become spaces, commas separate. What names a file
format, a library, a person or nothing at all is dropped, some spellings become one, and a plain plural
becomes its singular where some picture carries that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

JUNK = frozenset(
    "and|architetto francesco rollandin|art|clip|clip art|clipart|creation|duplicates|generic|inkscape|lumen|magick"
    "|mimeicon|miscellany|mo|object|objects|openclipart|saint|signs|signs and symbols|special|svg|symbols|theme|tux"
    "|unsorted|vector".split("|")
)
"""Words that say nothing about a picture: where it was filed, how it was drawn, who drew it."""

SPELLINGS = {
    "afrika": "africa",
    "airtravel": "air travel",
    "appicon": "icon",
    "apps": "application",
    "arrowshape": "arrow",
    "automobile": "car",
    "bodypart": "body part",
    "breads and carbs": "carbohydrate",
    "dragonly": "dragonfly",
    "earth globe northamerica": "earth,globe",
    "envelope mail symbol": "envelope,mail,symbol",
    "felini": "feline",
    "housecats": "cat",
    "icecream": "ice cream",
    "imformation": "information",
    "latinamerica": "latin america",
    "lemon theme icon": "lemon theme",
    "lightbulb": "light bulb",
    "mapsym": "map symbol",
    "mathsymbol": "math symbol",
    "meats and eggs": "protein",
    "mime types": "mimetype",
    "musicstuff": "music",
    "musicsym": "music symbol",
    "networksym": "network symbol",
    "northamerica": "north america",
    "noze": "nose",
    "paper new symbol": "paper,symbol",
    "paper symbol": "paper",
    "peacesymbol": "peace",
    "phone": "telephone",
    "religholiday": "religious holiday",
    "rent a car": "car",
    "roadsign": "road sign",
    "roadsigns": "road sign",
    "roadtravel": "road travel",
    "rubish": "garbage",
    "signalflag": "signal flag",
    "signs and symbols traffic": "sign,symbol,traffic",
    "smilies": "smiley",
    "southamerica": "south america",
    "squeleton": "skeleton",
    "stickmen": "stick figure",
    "transport": "transportation",
    "tv": "television",
    "unitedstates": "united states",
    "usholiday": "us holiday",
    "vegitable": "vegetable",
    "weathersym": "weather symbol",
    "xmas": "christmas",
}
"""Spellings, run-together words and folder names that become another label."""

LONGEST = 26
MOST_WORDS = 2
LONG_LABELS = frozenset({"united nations member"})


def raw_labels(keywords: Iterable[str], folders: Iterable[str]) -> frozenset[str]:
    """Labels of one picture before plurals are folded.

    Args:
        keywords: as typed.
        folders: names of the folders the picture lies in, outermost first.
    """
    words = [part.strip() for word in (*keywords, *folders) for part in uniform(word).split(",")]
    named = [label for word in words for label in SPELLINGS.get(word, word).split(",")]
    return frozenset(label for label in named if _says_something(label))


def uniform(word: str) -> str:
    """Lower case, `_` and `-` and XML entities as spaces, no space twice, no dot at the end."""
    return re.sub(r"([\s_-]|&\w+;)+", " ", word.lower()).strip(" .")


def singulars(labels: Iterable[frozenset[str]]) -> Mapping[str, str]:
    """Which plural becomes which singular: `cats` → `cat` where a picture is labelled `cat`."""
    known = frozenset().union(*labels)
    forms = {label: label[:-3] + "y" if label.endswith("ies") else label[:-1] for label in known if label[-1:] == "s"}
    return {label: form for label, form in forms.items() if form in known}


def _says_something(label: str) -> bool:
    words = len(label.split())
    if label in JUNK or not 2 <= len(label) <= LONGEST or re.search(r"[\d@()]", label):
        return False
    return words <= MOST_WORDS or label in LONG_LABELS
