"""Grid search: every combination of the choices, as document 000 tuned its decoder.

Aktas and Garcia, "CLIP-based Few-Shot Multi-Label Classification Methods", III.D, searched attention heads, dropout,
groups and layers of the ML-Decoder. They state the best values (4, 0.5, 8, 2) but not the grid; ours is the head's.
"""

import itertools
import math

import numpy as np

from mlclip.errors import TrainError
from mlclip.heads import Choice
from mlclip.tune.space import Space, fold
from mlclip.tune.study import Study


def try_all(study: Study, space: Space, limit: int, seed: int) -> None:
    """Try every combination, or `limit` of them drawn at random if there are more; raises TrainError for a range."""
    choices = {name: values.values for name, values in space.items() if isinstance(values, Choice)}
    ranges = sorted(space.keys() - choices.keys())
    if ranges:
        raise TrainError(f"a grid needs values, and {', '.join(ranges)} are ranges: use --search bayes or --vary")
    count = math.prod(map(len, choices.values()))
    drawn = np.random.default_rng(seed).permutation(count)[:limit] if count > limit else np.arange(count)
    wanted = frozenset(int(place) for place in drawn)
    for place, values in enumerate(itertools.product(*choices.values())):
        if place in wanted:
            settings = fold(dict(zip(choices, values, strict=True)))
            if study.known(settings) is None:
                study.measure(settings)
