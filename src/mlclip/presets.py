"""Named recipes: the settings of the four source documents.

`mlclip train --recipe 000-mld --data DATA` trains with one; other options on the command line override the recipe.
Where a document does not specify a setting, the recipe's `note` says what is used instead. Without a recipe a head has
our own defaults, which differ where that works better on small data.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlclip.errors import TrainError
from mlclip.settings import DECODER, UNTRAINED, Recipe, ThresholdConfig, TrainConfig

DOCUMENTS = {
    "000": 'Aktas and Garcia, "CLIP-based Few-Shot Multi-Label Classification Methods: A Comparative Study"',
    "001": 'Huang et al. 2023, "Asymmetric Polynomial Loss for Multi-Label Classification"',
    "002": 'Bynke 2022, "Multi-label image classification with language-image models"',
    "003": 'Guo, "Multimodal Multilabel Classification by CLIP"',
}
F2 = ThresholdConfig("global", beta=2.0)
"""Document 002 has one threshold for all classes, which maximises F2 on validation."""


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe with its source.

    `name` is the value of `--recipe` and starts with the document's number; `note` says what the document leaves open,
    and what is used instead. `encoder` holds the options for the document's encoder, where another cannot stand in.
    """

    name: str
    section: str
    recipe: Recipe
    note: str = ""
    encoder: str = ""

    @property
    def source(self) -> str:
        """Document and section."""
        return f"{DOCUMENTS[self.name[:3]]}, {self.section}"

    @property
    def command(self) -> str:
        """What trains with it."""
        return " ".join(filter(None, ("mlclip train --data DATA --recipe", self.name, self.encoder)))


def find_recipe(name: str) -> NamedRecipe:
    """Find a recipe by its name, or suggest a similar one."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TrainError(f"no recipe is called {name!r}: {hint}`mlclip recipes` lists them")
    return RECIPES[name]


def _study() -> list[NamedRecipe]:
    """Document 000: four methods on frozen CLIP (`siglip` trains it)."""
    silent = "batches of 64 are ours; the best epoch on validation is kept"
    sets = TrainConfig(lr=1e-3, epochs=10, patience=10)
    decoder = {"attention_heads": 4, "decoder_width": 768, "dropout": 0.5, "groups": 8, "hidden": 2048, "layers": 2}
    aligned = TrainConfig(lr=1e-4, epochs=50, patience=10, alignment_weight=1.0)
    open_in_mld = f"epochs, patience and the equal weight of both losses are ours; {silent}"
    return [
        NamedRecipe(
            "000-powerset", "III.A and IV.B",
            Recipe("powerset", {"scale": 1.0, "decode": "winner"}, sets),
            f"5 to 10 epochs there; the adapter is CLIP-Adapter's; {silent}",
        ),
        NamedRecipe(
            "000-powerset-marginals", "III.A and IV.B", Recipe("powerset", {"scale": 1.0}, sets),
            f"as 000-powerset, but read by marginals, which are ours: a label scores the sum of its sets; {silent}",
        ),
        NamedRecipe(
            "000-sigmoid", "III.B and IV.B",
            Recipe("sigmoid", {"scale": 1.0}, TrainConfig(lr=1e-3, epochs=50, patience=50)),
            f"the document's layer follows image and text embeddings, ours reads the image's alone; {silent}",
        ),
        NamedRecipe(
            "000-siglip", "III.C and IV.B",
            Recipe("siglip", {}, TrainConfig(lr=5e-5, epochs=80, patience=80)),
            f"the document's encoder is pre-trained with a sigmoid; training starts from its scale and bias; {silent}",
            "--encoder ViT-B-16-SigLIP --pretrained webli",
        ),
        NamedRecipe("000-mld", "III.D and IV.B", Recipe("mld", decoder, aligned), open_in_mld),
        NamedRecipe(
            "000-mld-pooled", "III.D and IV.B",
            Recipe("mld", decoder | {"memory": "pooled", "readout": "mean"}, aligned),
            f"as public code has it: memory is the embedding, and the groups are averaged; {open_in_mld}",
        ),
    ]  # fmt: skip


def _losses() -> list[NamedRecipe]:
    """Document 001: losses on ML-Decoder."""
    detached = "public code detaches the focus, and so does ours; 2.3's optimum of beta1 holds only where it is not"

    def on_mld(name: str, section: str, loss: str, note: str = "", **options: float) -> NamedRecipe:
        options = {"gamma_pos": 0.0, "gamma_neg": 4.0, "shift": 0.05} | options
        training = replace(DECODER, loss=loss, loss_options=options, alignment_weight=0.0)
        silent = "the loss is the document's; all else is the default of mld, without the alignment loss"
        notes = (silent, note, detached if loss == "apl" else "")
        return NamedRecipe(name, section, Recipe("mld", {}, training), "; ".join(filter(None, notes)))

    coco, text, public = "3.3, MS-COCO", "3.1, AAPD", "the constants of the public file mean alpha2 1.75"
    return [
        on_mld("001-asl", coco, "asl"),
        on_mld("001-asl-text", text, "asl", gamma_neg=3.0),
        on_mld("001-apl-coco", coco, "apl", public, alpha1=0.0, alpha2=3.0),
        on_mld("001-apl-coco-focus", coco, "apl", gamma_pos=1.0, alpha1=2.5),
        on_mld("001-apl-nuswide", "3.3, NUS-WIDE", "apl", alpha1=1.3),
        on_mld("001-apl-text", text, "apl", gamma_neg=3.0, alpha1=2.5),
        on_mld("001-apl-text-beta", text, "apl", gamma_neg=3.0, beta1=1.4),
        on_mld("001-apl-docred", "3.2, DocRED", "apl", gamma_pos=1.0, alpha1=1.4),
    ]


MILITARY_CONTEXTS = {
    "a photo of {}": (0, 0, 0),
    "a photo of a {}": (0, 0, 0),
    "a picture of a {}": (0, 0, 0),
    "a drawing of a {}": (100, 100, 100),
    "an illustration of a {}": (100, 100, 0),
    "a photo of a big {}": (100, 100, 0),
    "a photo of a small {}": (55.78, 0, 0),
    "a military photo of a {}": (100, 0, 12.57),
    "a photo from the military of a {}": (100, 0, 100),
    "a picture from the military of a {}": (46.01, 100, 100),
    "this photo from the military contains a {}": (23.21, 100, 0),
    "this photo from military contains a {}": (100, 100, 0),
    "a photo of a {}, a type of military equipment": (0, 0, 0),
    "a photo of a {}, a type of vehicle": (0, 0, 0),
}
"""Document 002, Table 4.1: candidates, with weights for labels untranslated, translated by machine and by hand."""
NORWEGIAN_CONTEXTS = {
    "et fotografi av {}": 0,
    "et fotografi av en {}": 0,
    "et bilde av en {}": 72.07,
    "en tegning av en {}": 83.99,
    "en illustrasjon av {}": 0,
    "et fotografi av en stor {}": 0,
    "et fotografi av en liten {}": 0,
    "et militært fotografi av en {}": 0,
    "et fotografi fra militæret av en {}": 0,
    "et bilde fra militæret av en {}": 22.97,
    "dette fotografiet fra militæret inneholder en {}": 0,
    "dette fotografiet fra militær inneholder en {}": 0,
    "et fotografi av {}, en type militært utstyr": 0,
    "et fotografi av {}, en type kjøretøy": 0,
}
"""The table's other candidates, weighed for untranslated labels only."""


def _thesis() -> list[NamedRecipe]:
    """Document 002: zero-shot, neighbour search and neighbour nets."""
    search = {"temperature": 68.566, "max_difference": 5.2568, "max_neighbors": 36, "stop_weight": 0.99}
    silent = "not tried there, so the settings are ours"
    normal = "ours normalises each context's embedding before it averages them"
    ensemble = f"contexts of military pictures; give your own with --contexts and tune their weights; {normal}"
    original, automatic, manual = (
        [f"{context}\t{weights[column]:g}" for context, weights in MILITARY_CONTEXTS.items()] for column in range(3)
    )
    original += [f"{context}\t{weight:g}" for context, weight in NORWEGIAN_CONTEXTS.items()]
    return [
        *(_thesis_recipe(name, "3.2.1 and Table 4.1", "zeroshot", {"contexts": contexts}, note=f"{labels}; {ensemble}")
          for name, contexts, labels in (
              ("zeroshot", manual, "labels translated by hand"),
              ("zeroshot-automatic", automatic, "labels translated by machine"),
              ("zeroshot-original", original, "labels in Norwegian"),
          )),
        _thesis_recipe("zeroshot-single", "4.2.1", "zeroshot", {"contexts": ["a photo from the military of a {}"]}),
        _thesis_recipe("knn1", "4.1.3", "knn1", {}),
        _thesis_recipe("neighbors", "3.2.2 and Table 4.3", "neighbors", search),
        _thesis_recipe("tip", "5.1", "tip", {}, note=silent),
        _net("neighbornet-untuned", "neighbornet", 105.60),
        _net("neighbornet", "neighbornet", 105.60, tuned=(6, 319, 0.000016878, 0.10277)),
        _net("neighbornet-random-untuned", "neighbornet", 10.557, "random", labels="onehot"),
        _net("neighbornet-kmeans-onehot-untuned", "neighbornet", 57.704, "kmeans", labels="onehot"),
        _net("neighbornet-kmeans-untuned", "neighbornet", 43.653, "kmeans", labels="averaged"),
        _net("neighbornet-kmeans-4241-untuned", "neighbornet", 102.13, "kmeans", count=4241, labels="averaged"),
        _net("neighbornet-kmeans", "neighbornet", 43.653, "kmeans", (12, 33, 9.8052, 0.36597), labels="averaged"),
        _net("classnet-kmeans-untuned", "classnet", 14.193, "kmeans"),
        _net("classnet-kmeans", "classnet", 4.9755, "kmeans", (63, 64, 100.0, 0.90390)),
        _net("classnet-random", "classnet", 1.0, "random", (100, 64, 52.2653, 0.99)),
    ]  # fmt: skip


def _thesis_recipe(
    name: str, section: str, head: str, options: Mapping[str, Any], training: TrainConfig = UNTRAINED, note: str = ""
) -> NamedRecipe:
    return NamedRecipe(f"002-{name}", section, Recipe(head, options, training, F2), note)


def _net(
    name: str,
    head: str,
    temperature: float,
    grouping: str | None = None,
    tuned: tuple[int, int, float, float] | None = None,
    count: int = 16,
    **options: str,
) -> NamedRecipe:
    """A row of Table 4.4; `tuned` is epochs, batch size, learning rate and momentum of its fine-tuning."""
    settings: dict[str, Any] = {"temperature": temperature, "fine_tune": tuned is not None, "prototypes": None}
    if grouping is not None:
        settings |= {"prototypes": count, "grouping": grouping}
    notes = ["empty clusters are left out; there they are zero vectors"] if head == "classnet" else []
    training = UNTRAINED
    if tuned is not None:
        epochs, batch_size, lr, momentum = tuned
        training = TrainConfig(
            optimizer="sgd", schedule="cosine", keep="last",
            lr=lr, momentum=momentum, batch_size=batch_size, epochs=epochs,
        )  # fmt: skip
        notes += ["no choice of an epoch is described, so the last one is kept"]
    return _thesis_recipe(name, "3.2.3 and Table 4.4", head, settings | options, training, "; ".join(notes))


def _multimodal() -> list[NamedRecipe]:
    """Document 003: image and text fused."""
    named, ours = "the document names CLIP's features and gMLP", "the other settings are the defaults of fusion"
    ways, gating = f"{named}; this way to fuse is ours, and {ours}", f"{named}; {ours}"
    return [
        *(
            NamedRecipe(f"003-fusion-{mode}", "abstract", Recipe("fusion", {"mode": mode}), ways)
            for mode in ("concat", "sum", "product", "gated", "attention")
        ),
        NamedRecipe("003-fusion-gmlp", "Figure 5", Recipe("fusion", {"head": "gmlp"}), gating),
    ]


RECIPES: dict[str, NamedRecipe] = {
    recipe.name: recipe for recipe in (*_study(), *_losses(), *_thesis(), *_multimodal())
}
"""All of them, by name."""
