"""From labels to text embeddings, one per class, through contexts, weights and translations.

Each text's embedding is normalised, they are averaged with the contexts' weights, and the mean is normalised again.
Bynke 2022 (document 002), 3.2.1; the weights, from 0 to 100 and scaled to sum to 1, are hyperparameters there (4.1.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mlclip.heads.contexts import (
    FULL_WEIGHT,
    LABELS,
    Words,
    is_language,
    read_contexts,
    read_translations,
    split_language,
    split_weight,
)

DEFAULT_CONTEXTS = ("a photo of a {}",)
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Wording:
    """Everything that turns a label into a text embedding except the text tower.

    C contexts, each with its language in front where there are translations; C weights from 0 to 100; and translations
    from language to words.
    """

    contexts: tuple[str, ...]
    weights: tuple[float, ...]
    translations: Mapping[str, Words]

    def __post_init__(self) -> None:
        if not self.contexts:
            raise ValueError("there is no context: give at least one, such as 'a photo of a {}'")
        for context in self.contexts:
            language, text = split_language(context)
            if text.count("{}") != 1:
                raise ValueError(f"the context {context!r} needs one {{}}, where the label goes")
            if language not in (None, LABELS, *self.translations):
                raise ValueError(f"the context {context!r} asks for {language!r}, which has no translations")
        if len(set(self.contexts)) < len(self.contexts):
            raise ValueError("a context is given twice: give it once, with the weight you want")
        if len(self.weights) != len(self.contexts):
            counts, listed = f"{len(self.weights)} weights for {len(self.contexts)} contexts", ", ".join(self.contexts)
            raise ValueError(f"{counts}: give one for each of: {listed}")
        if not all(0 <= weight <= FULL_WEIGHT for weight in self.weights):
            raise ValueError(f"weights lie between 0 and {FULL_WEIGHT:g}, not {list(self.weights)}")
        if not any(self.weights):
            raise ValueError("all weights are 0: at least one context must count")

    @classmethod
    def read(
        cls,
        contexts: str | Path | Sequence[str] | None = None,
        weights: Sequence[float] | None = None,
        translations: str | Path | Sequence[str] | Mapping[str, Words] | None = None,
        keep_labels: bool = False,
    ) -> Self:
        """Make a wording from a user's options; raises ValueError where they do not fit together.

        Args:
            contexts: a file as `read_contexts` takes it, or the contexts themselves, written like its lines; a string
                with `{}` is a context. By default `a photo of a {}`.
            weights: one number from 0 to 100 per context, in the order of the result's `contexts`, where a context
                without a language counts once per language; by default the weights given with the contexts.
            translations: files as `read_translations` takes them, or language to words.
            keep_labels: use contexts without a language with the untranslated labels too.
        """
        given = _contexts(contexts)
        words = translations if isinstance(translations, Mapping) else read_translations(_several(translations))
        _check_words(words)
        languages = ((LABELS,) if keep_labels else ()) + tuple(words) if words else (None,)
        expanded = [(tagged, weight) for context, weight in given for tagged in _in_languages(context, languages)]
        wording = cls(
            tuple(context for context, _ in expanded),
            tuple(float(weight) for _, weight in expanded) if weights is None else _numbers(weights),
            {language: dict(translated) for language, translated in words.items()},
        )
        unused = set(words) - {split_language(context)[0] for context in wording.contexts}
        if unused:
            raise ValueError(f"no context uses the translations {sorted(unused)}: add one or leave them out")
        return wording

    @property
    def config(self) -> dict[str, Any]:
        """The attributes as plain JSON values."""
        return {
            "contexts": list(self.contexts),
            "weights": list(self.weights),
            "translations": {language: dict(words) for language, words in self.translations.items()},
        }

    def texts(self, labels: Sequence[str]) -> list[list[str]]:
        """The labels inside each context: C lists of N texts."""
        rows = []
        for context in self.contexts:
            language, text = split_language(context)
            words = self.translations.get(language or LABELS, {})
            rows.append([text.replace("{}", words.get(label, label)) for label in labels])
        return rows

    def embed(self, labels: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Embed N labels, not necessarily those of a training: float32 [N, D], L2-normalised, as `encode` returns."""
        total, rows = sum(self.weights), []
        for texts, weight in zip(self.texts(labels), self.weights, strict=True):
            if weight:
                starts = range(0, len(texts), _TEXTS_AT_ONCE)
                made = torch.cat([encode(texts[start : start + _TEXTS_AT_ONCE]) for start in starts])
                rows.append(weight / total * F.normalize(made, dim=-1))
        return F.normalize(torch.stack(rows).sum(dim=0), dim=-1)

    def facts(self, labels: Sequence[str]) -> dict[str, Any]:
        """How many labels each language has no word for; raises ValueError if a language has no word for any."""
        counts = {
            language: sum(label not in words for label in labels) for language, words in self.translations.items()
        }
        for language, count in counts.items():
            if count == len(labels):
                raise ValueError(
                    f"the translations {language!r} hold none of the labels, such as {labels[0]!r}: "
                    "they map a label, spelt as in the data, to its word"
                )
        return {"untranslated_labels": counts} if counts else {}


def _contexts(given: str | Path | Sequence[str] | None) -> list[tuple[str, float]]:
    if isinstance(given, Path) or (isinstance(given, str) and "{}" not in given):
        return read_contexts(Path(given))
    texts = DEFAULT_CONTEXTS if given is None else (given,) if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"contexts are texts, or one file of them, not {given!r}")
    return [split_weight(text) for text in texts]


def _several(given: str | Path | Sequence[str] | None) -> list[Path]:
    return [] if given is None else [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def _in_languages(context: str, languages: Sequence[str | None]) -> list[str]:
    """The context once for each language, unless it names its own."""
    if split_language(context)[0] is not None:
        return [context]
    return [context if language is None else f"[{language}] {context}" for language in languages]


def _check_words(words: Mapping[str, Words]) -> None:
    for language, translated in words.items():
        if not is_language(language):
            raise ValueError(f"{language!r} cannot name a language: use a short name without spaces, such as 'de'")
        if not isinstance(translated, Mapping) or not all(isinstance(word, str) for word in translated.values()):
            raise ValueError(f"translations map language to label to word, but {language!r} does not")


def _numbers(weights: Sequence[float]) -> tuple[float, ...]:
    listed = isinstance(weights, Sequence) and not isinstance(weights, str)
    if not listed or not all(isinstance(weight, int | float) for weight in weights):
        raise ValueError(f"weights are a list of numbers, such as [100, 12.5], not {weights!r}")
    return tuple(float(weight) for weight in weights)
