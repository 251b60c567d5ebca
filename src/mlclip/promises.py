"""Thresholds with a guarantee: precision or recall of at least a level, with a confidence, on images like validation's.

If the validation images were drawn again and again, a promise of confidence 0.9 would be wrong for a class in at most
one of ten draws. Precision is tested from the strictest threshold on, by exact binomial tests, until one fails
(fixed-sequence testing, Angelopoulos et al. 2021, "Learn then Test", https://arxiv.org/abs/2110.01052), so that the
search costs no confidence. Recall only falls as the threshold rises; there the bound is Wilks's (1941).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlclip.thresholds import below_rank, check_scores


@dataclass(frozen=True)
class Promise:
    """What is promised about every class: its figure is at least `level`, with a `confidence` in (0, 1)."""

    figure: Literal["precision", "recall"]
    level: float
    confidence: float

    @property
    def needed(self) -> int:
        """The fewest positives that can prove it."""
        return math.ceil(math.log(1 - self.confidence) / math.log(self.level) - 1e-9)

    def threshold(self, truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> np.float32 | None:
        """The lowest threshold with the precision, or the highest with the recall, of one class [R], if any."""
        from scipy.stats import binom  # type: ignore[import-untyped]  # slow to load

        order = np.argsort(-scores, kind="stable")
        ranked, hits = scores[order], truth[order].cumsum()
        ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)  # equal scores go together
        counts = ends + 1 if self.figure == "precision" else np.full(ends.size, hits[-1])
        proved = np.append(binom.sf(hits[ends] - 1, counts, self.level) <= 1 - self.confidence, False)
        found = int(np.searchsorted(counts, self.needed)) if self.figure == "precision" else int(proved.argmax())
        if not proved[found]:
            return None
        if self.figure == "precision":
            found += int(proved[found:].argmin()) - 1  # the last before the first that fails
        return below_rank(ranked, int(ends[found]))


def keep_promises(
    targets: npt.NDArray[np.generic], scores: npt.NDArray[np.float32], before: npt.NDArray[np.float32], promise: Promise
) -> tuple[npt.NDArray[np.float32], list[str | None]]:
    """Thresholds [N] that keep a promise by validation's targets, 0 or 1, and scores [R, N].

    A class without one keeps its threshold of `before` [N], and has a reason in the list, which otherwise holds None.
    """
    check_scores(targets, scores)
    thresholds, reasons = before.astype(np.float32), list[str | None]()
    for n, truth in enumerate(targets.astype(np.bool_).T):
        positives, found = int(truth.sum()), promise.threshold(truth, scores[:, n])
        enough = positives >= promise.needed
        reason = f"its {promise.figure} is too low" if enough else f"{positives} positives, {promise.needed} needed"
        reasons.append(reason if found is None else None)
        thresholds[n] = thresholds[n] if found is None else found
    return thresholds, reasons


def promise_lines(record: dict[str, Any] | None) -> list[str]:
    """What a run's record of a promise says; nothing without a record."""
    if not record:
        return []
    failed = [f"{label} ({reason})" for label, reason in record["classes"].items() if reason]
    what, classes = f"{record['figure']} of at least {record['level']:g}", len(record["classes"])
    kept = f"{classes - len(failed)} of {classes} classes"
    said = f"{what} is promised for {kept}, with confidence {record['confidence']:g}"
    return [said, *([f"cannot be promised: {', '.join(failed)}"] if failed else [])]
