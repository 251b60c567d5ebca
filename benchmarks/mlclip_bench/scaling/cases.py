"""What is measured: series of cases over the number of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlclip.errors import ResultsError
from mlclip.heads import HEADS

SELF_ATTENTION = "self-attention"
"""The decoder before ML-Decoder, with self-attention between N queries. It exists in this bench only."""
ENCODER = "encoder"
WHOLE = "encoder+"  # starts the key of a head that is measured behind the encoder
HEADS_BY_DEFAULT = ("sigmoid", "mld", SELF_ATTENTION, "powerset", "zeroshot", "neighbornet")
REFERENCES = ("knn1", "neighbors", "neighbornet", "classnet", "tip")
"""Heads that keep references; their number is part of the case."""
CLAIMED_SETS = {80: 234_581}
"""Label sets that "CLIP-based Few-Shot Multi-Label Classification Methods" claims for COCO's 80 classes: more than
COCO has images, so they cannot have been observed."""


@dataclass(frozen=True)
class Case:
    """One graph: a head of random weights, or the encoder."""

    kind: str  # a name in HEADS, `SELF_ATTENTION` or `ENCODER`
    classes: int = 0  # N; 0 for the encoder
    groups: int = 0  # K of `mld`; 0 for all others
    rows: int = 0  # label sets of `powerset`, references of the neighbour heads; 0 for all others

    @property
    def key(self) -> str:
        """The name in raw lines and files."""
        numbers = {"n": self.classes, "k": self.groups, "r": self.rows}
        return "-".join([self.kind, *(f"{letter}{number}" for letter, number in numbers.items() if number)])


@dataclass(frozen=True)
class Series:
    """A line of the figure: one method over N, ascending."""

    title: str
    cases: tuple[Case, ...]


def claim(title: str) -> str:
    """The growth that "CLIP-based Few-Shot Multi-Label Classification Methods" claims for a series; empty for none."""
    if title.startswith("powerset"):
        return "O(N!) worst, O(N) best"
    stated = {"sigmoid": "O(N)", "mld, K = N": "O(N)", "decoder with self-attention, K = N": "O(N²)"}
    return stated.get(title, "O(K)" if title.startswith("mld") else "")


@dataclass(frozen=True)
class SkippedPoint:
    """A point that is not measured, and why."""

    title: str
    classes: int
    why: str


def plan(
    classes: Sequence[int],
    groups: Sequence[int | None],
    heads: Sequence[str],
    label_sets: Mapping[int, int],
    references: int,
) -> tuple[list[Series], list[SkippedPoint]]:
    """The series of a run over N, ascending, and the points that cannot be measured.

    Groups are K of `mld`, None for K = N; K is never above N. `check_head` accepts the heads. `label_sets` says how
    many sets data shows, by N; the neighbour heads have `references`.
    """
    series, skipped = [], []
    for head in heads:
        check_head(head)
        if head == "mld":
            series += [_mld(classes, count) for count in groups]
        elif head == SELF_ATTENTION:
            cases = tuple(Case(head, n) for n in classes)
            series.append(Series("decoder with self-attention, K = N", cases))
        elif head == "powerset":
            series += _powersets(classes, label_sets)
            skipped += [
                SkippedPoint("powerset", n, "no data shows its label sets: --label-sets takes your own manifest")
                for n in classes
                if n not in label_sets
            ]
        elif head in REFERENCES:
            cases = tuple(Case(head, n, rows=references) for n in classes)
            series.append(Series(f"{head}, {references:,} references", cases))
        else:
            series.append(Series(head, tuple(Case(head, n) for n in classes)))
    return series, skipped


def _mld(classes: Sequence[int], groups: int | None) -> Series:
    cases = tuple(Case("mld", n, groups=min(groups or n, n)) for n in classes)
    return Series(f"mld, K = {'N' if groups is None else groups}", cases)


def _powersets(classes: Sequence[int], label_sets: Mapping[int, int]) -> list[Series]:
    seen = tuple(Case("powerset", n, rows=label_sets[n]) for n in classes if n in label_sets)
    claimed = tuple(Case("powerset", n, rows=CLAIMED_SETS[n]) for n in classes if n in CLAIMED_SETS)
    series = [
        Series("powerset, label sets of real data", seen),
        Series("powerset, 234,581 sets as claimed for COCO", claimed),
    ]
    return [one for one in series if one.cases]


def check_head(head: str) -> None:
    """Refuse a head that cannot be measured; raises ResultsError."""
    if head == "siglip":
        raise ResultsError("siglip trains its own encoder and adds one product to it: its cost is the encoder's")
    if head not in HEADS and head != SELF_ATTENTION:
        raise ResultsError(f"unknown head {head!r}: choose from {', '.join((*HEADS, SELF_ATTENTION))}")
