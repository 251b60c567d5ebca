"""What a study compares: variants with their recipes. Nothing is measured here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlclip.data import Dataset, k_shot
from mlclip.errors import TrainError
from mlclip.heads import HEADS
from mlclip.presets import RECIPES
from mlclip.settings import Recipe, ThresholdConfig

LEFT_OUT = ("siglip",)  # only part of `heads` if named: it trains the encoder, so it cannot use cached features

WITHOUT_TEXTS = ("fusion, no texts",)
"""Variants that are trained with texts and tested without, as for images without known titles."""

LOSS_SETTINGS: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "bce": ("bce", {}),
    "focal": ("focal", {"gamma": 2}),
    "asl": ("asl", {"gamma_neg": 4, "gamma_pos": 0, "shift": 0.05}),
    "apl, α₁ 0, α₂ 3": ("apl", {"gamma_neg": 4, "gamma_pos": 0, "shift": 0.05, "alpha1": 0, "alpha2": 3}),
    "apl, α₁ 1.3": ("apl", {"gamma_neg": 4, "gamma_pos": 0, "shift": 0.05, "alpha1": 1.3}),
    "apl, γ⁻ 3, α₁ 2.5": ("apl", {"gamma_neg": 3, "gamma_pos": 0, "shift": 0.05, "alpha1": 2.5}),
}
"""Settings of Huang et al. 2023, https://arxiv.org/abs/2304.05361, from its tables for MS-COCO, NUS-WIDE and text
classification. With its default coefficients `apl` equals `asl`, so it is not measured twice."""

RULES: Mapping[str, ThresholdConfig | None] = {
    "at 0.5": None, "one global": ThresholdConfig("global"), "one per label": ThresholdConfig(),
}  # fmt: skip
"""Thresholds for recipes of documents that state none."""

THESIS_F2: Mapping[str, float] = {
    "002-zeroshot": 19.1, "002-zeroshot-automatic": 15.8, "002-zeroshot-original": 11.6, "002-zeroshot-single": 18.6,
    "002-knn1": 45.8, "002-neighbors": 56.8, "002-neighbornet-untuned": 55.8, "002-neighbornet": 55.8,
    "002-neighbornet-random-untuned": 22.5, "002-neighbornet-kmeans-onehot-untuned": 27.6,
    "002-neighbornet-kmeans-untuned": 38.6, "002-neighbornet-kmeans": 54.8,
    "002-neighbornet-kmeans-4241-untuned": 55.1, "002-classnet-kmeans-untuned": 17.8, "002-classnet-kmeans": 55.3,
    "002-classnet-random": 55.9,
}  # fmt: skip
"""Micro F2 in document 002, Tables 4.5 to 4.7: 159 military keywords, prevalence 1.16 %."""

STUDY_RATES: Mapping[str, tuple[float, float, float]] = {
    "000-powerset": (94.4, 93.1, 93.7), "000-sigmoid": (49.3, 27.6, 35.1), "000-siglip": (88.0, 73.5, 80.1),
    "000-mld": (95.8, 91.6, 93.6),
}  # fmt: skip
"""Precision, recall and F1 in document 000, Table I: 46 classes; neither averaging nor threshold is stated."""


def _loss(head: str, loss: str, options: Mapping[str, Any]) -> Recipe:
    return Recipe(head, training=replace(HEADS[head].defaults, loss=loss, loss_options=dict(options)))


STUDIES: Mapping[str, Mapping[str, Recipe]] = {
    "heads": {name: Recipe(name) for name in HEADS} | {name: Recipe("fusion") for name in WITHOUT_TEXTS},
    "losses": {
        f"{head}, {title}": _loss(head, loss, options)
        for head in ("sigmoid", "mld")
        for title, (loss, options) in LOSS_SETTINGS.items()
    },
    "alignment": {
        "mld": Recipe("mld"),
        "mld, no alignment": Recipe("mld", training=replace(HEADS["mld"].defaults, alignment_weight=0.0)),
    },
    "recipes": {name: named.recipe for name, named in RECIPES.items()},
}
"""`heads`: every method with its defaults. `losses`: the two heads that take any loss, with each. `alignment`: whether
ML-Decoder's alignment loss helps. `recipes`: the documents' own settings, under each document's protocol."""


def variants_of(study: str, heads: Sequence[str] | None = None) -> dict[str, Recipe]:
    """The variants of a study, of some heads or of all but `LEFT_OUT`; raises TrainError if none is left."""
    if study not in STUDIES:
        raise TrainError(f"unknown study {study!r}: choose one of {', '.join(STUDIES)}")
    unknown = [name for name in heads or () if name not in HEADS]
    if unknown:
        raise TrainError(f"unknown head {unknown[0]!r}: choose from {', '.join(HEADS)}")
    kept = {
        name: recipe
        for name, recipe in STUDIES[study].items()
        if (recipe.head in heads if heads is not None else recipe.head not in LEFT_OUT)
    }
    if not kept:
        raise TrainError(f"the study {study!r} has no variant of {', '.join(heads or ())}")
    return kept


def few_shot(dataset: Dataset, k: int, seed: int) -> Dataset:
    """Keep about k training and about k validation images per class, and all test images.

    Validation decides when training stops and what thresholds are. With k labelled images per class there is no large
    validation split either, so it is cut in the same way.
    """
    return _exchanged(k_shot(_exchanged(k_shot(dataset, k, seed)), k, seed))


def _exchanged(dataset: Dataset) -> Dataset:
    other = {"train": "val", "val": "train"}
    items = (replace(item, split=other.get(item.split or "", item.split)) for item in dataset.items)
    return replace(dataset, items=tuple(items))
