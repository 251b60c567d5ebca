"""Whether two runs agree.

A shared machine is faster in one quarter of an hour than in the next, for everything alike, and the rounds of one run
cannot show that. So growth, which compares points of the same rounds, must agree as it is. Latencies must agree after
division by the factor between the two runs: the median over all points of how much longer the second one took.
"""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from mlclip.errors import ResultsError
from mlclip_bench.kit.intervals import Estimate
from mlclip_bench.scaling.derive import Derived


@dataclass(frozen=True)
class Agreement:
    """How two runs compare."""

    factor: float  # how many times as long the second run took, in the median over points
    points: int  # number of points that both measured
    apart: dict[str, float]  # points whose intervals do not overlap after the factor -> the remaining ratio
    growths: int  # number of exponents and ratios that both have
    grown_apart: dict[str, tuple[float, float]]  # those whose intervals do not overlap -> both values

    def __str__(self) -> str:
        same = self.growths - len(self.grown_apart)
        lines = [
            f"the second run took {self.factor:.2f} times as long; after that "
            f"{self.points - len(self.apart)} of {self.points} latencies agree within their intervals",
            *(f"  {name}: {beyond:.2f} times as long besides" for name, beyond in self.apart.items()),
            f"{same} of {self.growths} exponents and ratios of growth agree as they are",
            *(f"  {name}: {one:.2f} and {two:.2f}" for name, (one, two) in self.grown_apart.items()),
        ]
        return "\n".join(lines)


def compare(first: Derived, second: Derived) -> Agreement:
    """Compare what two runs measured; raises ResultsError if they have no point in common."""
    common = [point for point in first.spreads if point in second.spreads]
    if not common:
        raise ResultsError(f"{first.folder} and {second.folder} have no measured point in common")
    pairs = {f"{p.case}, batch {p.batch}": (first.spreads[p].latency, second.spreads[p].latency) for p in common}
    factor = math.exp(statistics.median(math.log(two.value / one.value) for one, two in pairs.values()))
    apart = {
        name: two.value / one.value / factor for name, (one, two) in pairs.items() if not one.scaled(factor).meets(two)
    }
    growths, other = dict(_growths(first)), dict(_growths(second))
    both = {name: (growths[name], other[name]) for name in growths if name in other}
    grown_apart = {name: (one.value, two.value) for name, (one, two) in both.items() if not one.meets(two)}
    return Agreement(factor, len(common), apart, len(both), grown_apart)


def _growths(run: Derived) -> Iterator[tuple[str, Estimate]]:
    for title in run.titles:
        for batch in run.asked["batches"]:
            found = run.growth(title, batch)
            for kind in ("exponent", "exponent_of_all"):
                if kind in found:
                    yield f"{title}, batch {batch}, {kind}", Estimate.from_dict(found[kind])
            for sizes, values in found.get("ratios", {}).items():
                yield f"{title}, batch {batch}, {sizes}", Estimate.from_dict(values)
