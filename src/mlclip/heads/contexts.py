"""Files of contexts that labels are put into, with weights, and files of translations.

A context is a text with one `{}` where the label goes, such as `a photo of a {}`. With translations, a context may
start with a language: `[de] ein Foto von {}` takes that language's words, and `[labels]` takes the labels unchanged. A
context without a language is used with every language in turn. Each resulting context has its own weight, so tuning can
choose among languages.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlclip_client.lines import parse_json

from mlclip.errors import DataError
from mlclip.files import read_file

FULL_WEIGHT = 100.0
LABELS = "labels"
"""In place of a language: the labels unchanged."""
_TAGGED = re.compile(r"\[([^\[\]\s]+)\] *(.*)", re.DOTALL)

Words = Mapping[str, str]
"""Label to its word in one language; labels without a word stay unchanged."""


def read_contexts(path: Path) -> list[tuple[str, float]]:
    """Read contexts and their weights; raises DataError.

    The file is UTF-8 with one context per line, optionally followed by a tab and its weight, otherwise 100. Empty lines
    and lines that start with `#` are skipped.
    """
    contexts = []
    for number, line in enumerate(_read(path).splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                contexts.append(split_weight(line))
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
    if not contexts:
        raise DataError(f"{path} holds no context: write one per line, such as 'a photo of a {{}}'")
    return contexts


def read_translations(paths: Iterable[Path]) -> dict[str, Words]:
    """Read translations from JSON files; raises DataError.

    A file `de.json` that maps labels to words defines the language `de`; a file that maps languages to such objects
    defines these languages.
    """
    found: dict[str, Words] = {}
    for path in paths:
        try:
            content = parse_json(_read(path))
        except ValueError as error:
            raise DataError(f"{path} holds no translations: {error}") from error
        if not isinstance(content, dict) or not content:
            raise DataError(f"{path} holds no translations: write a JSON object from label to word")
        languages = content if all(isinstance(value, dict) for value in content.values()) else {path.stem: content}
        for language, words in languages.items():
            if language in found:
                raise DataError(f"{path}: the language {language!r} was given before: put its words into one file")
            if not all(isinstance(word, str) and word for word in words.values()):
                raise DataError(f"{path}: every label of {language!r} wants one word, a text that is not empty")
            found[language] = words
    return found


def split_weight(line: str) -> tuple[str, float]:
    """A context and its weight, 100 unless one follows after a tab; raises ValueError."""
    context, _, weight = (part.strip() for part in line.partition("\t"))
    try:
        return context, float(weight) if weight else FULL_WEIGHT
    except ValueError:
        raise ValueError(f"{weight!r} is not a weight: give a number from 0 to 100") from None


def split_language(context: str) -> tuple[str | None, str]:
    """A context's language, None where it names none, and its text."""
    tagged = _TAGGED.fullmatch(context)
    return (tagged[1], tagged[2]) if tagged else (None, context)


def is_language(name: str) -> bool:
    """Whether a name is valid for a language: no space, no bracket, and not `labels`."""
    return name != LABELS and _TAGGED.fullmatch(f"[{name}]") is not None


def _read(path: Path) -> str:
    try:
        return read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
