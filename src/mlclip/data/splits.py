"""Splits into train, val and test, and samples of k images per class.

Splits keep the share of every label, or of every stratum where strata are given: iterative stratification (Sechidis,
Tsoumakas, Vlahavas 2011, "On the Stratification of Multi-Label Data", https://doi.org/10.1007/978-3-642-23808-6_10).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mlclip.data.dataset import SPLITS, Dataset, Item
from mlclip.data.similarity import Index, connected
from mlclip.errors import DataError
from mlclip.settings import check_seed

FRACTIONS = (0.6, 0.2, 0.2)


def assign_splits(
    dataset: Dataset,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    *,
    strata: Index | None = None,
    units: Index | None = None,
) -> Dataset:
    """Give a split to every item that has none.

    Items that have one keep it, with one exception: where every item has a split but none is in val (or test), as with
    COCO's two files, its share is cut from train, if there is any. Items of one group, or with the same bytes, stay
    together; a group with a member in a split follows it.

    Fractions are the shares of train, val and test, divided by their sum; 0 leaves a split out. The shares spread the
    labels, or the `strata`, int [R], from 0. `units`, int [R], are equal for items that stay together, by default
    `together(dataset.items)`. Raises DataError if there are too few images for the fractions.
    """
    check_seed(seed)
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or not np.isfinite(shares).all() or (shares < 0).any() or shares[0] == 0:
        raise DataError(f"fractions must be three shares such as 0.6 0.2 0.2, train above 0, not {fractions}")
    units = together(dataset.items) if units is None else np.unique(units, return_inverse=True)[1]
    owned = _owned_splits(dataset.items, units)
    wanted = [name for name, share in zip(SPLITS, shares, strict=True) if share > 0]
    if None not in owned and "train" not in owned:
        return dataset
    if None not in owned:
        wanted = [name for name in wanted if name == "train" or name not in owned]
        owned = [None if name == "train" and len(wanted) > 1 else name for name in owned]
    traits = dataset.targets().astype(np.bool_) if strata is None else strata[:, None] == np.unique(strata)
    given = _stratify(traits, units, owned, wanted, shares[[SPLITS.index(name) for name in wanted]], seed)
    items = [
        item if item.split and owned[unit] else replace(item, split=given[unit])
        for item, unit in zip(dataset.items, units, strict=True)
    ]
    empty = sorted(set(wanted) - {item.split for item in items})
    if empty:
        raise DataError(f"too few images to fill {' and '.join(empty)}: {len(dataset):,} in {len(owned):,} groups")
    return replace(dataset, items=tuple(items))


def k_shot(dataset: Dataset, k: int, seed: int = 0) -> Dataset:
    """Keep about k training images per class; other splits stay whole.

    Images are drawn for the rarest class first, and an image counts for all its labels, so frequent classes may get
    more than k; a class with fewer keeps all of them.
    """
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}")
    check_seed(seed)
    train = dataset.split("train")
    targets = train.targets().astype(np.bool_)
    shuffled = np.random.default_rng(seed).permutation(len(train))
    picked = np.zeros(len(train), dtype=np.bool_)
    for n in np.argsort(targets.sum(axis=0), kind="stable"):
        missing = k - int(targets[picked, n].sum())
        candidates = [row for row in shuffled if targets[row, n] and not picked[row]]
        picked[candidates[: max(0, missing)]] = True
    kept = {id(item) for item, keep in zip(train.items, picked, strict=True) if keep}
    items = (item for item in dataset.items if item.split != "train" or id(item) in kept)
    return replace(dataset, items=tuple(items))


def together(items: Sequence[Item], sets: Sequence[int] = ()) -> Index:
    """Number the sets of R items that must stay together, by group and by content, in chains: int64 [R], from 0.

    Items with the same number in `sets`, R numbers, stay together, too.
    """
    pairs: list[tuple[int, int]] = []
    for keys in ([item.group for item in items], [item.sha256 for item in items], sets):
        first: dict[object, int] = {}
        pairs += [(row, first.setdefault(key, row)) for row, key in enumerate(keys) if key is not None]
    return connected(len(items), *np.asarray(pairs, dtype=np.intp).reshape(-1, 2).T)


def _owned_splits(items: tuple[Item, ...], units: Index) -> list[str | None]:
    """The split of each unit's first member that has one."""
    owned: list[str | None] = [None] * (int(units.max()) + 1 if len(units) else 0)
    for item, unit in zip(items, units, strict=True):
        owned[unit] = owned[unit] or item.split
    return owned


def _stratify(
    traits: npt.NDArray[np.bool_],
    units: Index,
    owned: list[str | None],
    wanted: list[str],
    shares: npt.NDArray[np.float64],
    seed: int,
) -> list[str]:
    """A split for every unit: its own, or one drawn so that traits, bool [R, *], spread by the shares."""
    from iterstrat.ml_stratifiers import IterativeStratification  # type: ignore[import-untyped]  # slow to load

    united = np.zeros((len(owned), traits.shape[1]), dtype=np.bool_)
    np.logical_or.at(united, units, traits)
    free = [unit for unit, split in enumerate(owned) if split is None]
    folds = IterativeStratification(united[free], shares / shares.sum(), np.random.RandomState(seed))
    drawn = {unit: wanted[fold] for unit, fold in zip(free, folds, strict=True)}
    return [drawn.get(unit) or str(split) for unit, split in enumerate(owned)]
