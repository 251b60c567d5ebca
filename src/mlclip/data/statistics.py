"""How often labels occur, and how many an image has."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mlclip.data.dataset import Dataset


def label_counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Images of each label, in all and by split, as `split_counts` names splits; most frequent first, ties by name."""
    counts = {name: dict.fromkeys(("images", *dataset.split_counts), 0) for name in dataset.classes}
    for item in dataset.items:
        for label in item.labels:
            counts[label]["images"] += 1
            counts[label][item.split or "none"] += 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1]["images"], pair[0])))


def statistics(dataset: Dataset) -> list[str]:
    """The distributions of images per label and of labels per image, in lines."""
    images = [counts["images"] for counts in label_counts(dataset).values()]
    labels = [len(item.labels) for item in dataset.items if item.labels]
    shares = ", ".join(f"{number:,} with {count}" for count, number in sorted(Counter(labels).items()))
    return [
        f"{len(dataset):,} images: {dataset.split_line()}",
        f"images per label: {_spread(images)}; labels on one image only: {images.count(1):,}",
        f"labels per image: {_spread(labels)}; images without a label: {len(dataset) - len(labels):,}",
        f"images by the number of their labels: {shares or 'none'}",
    ]


def _spread(counts: Sequence[int]) -> str:
    """`1 to 50, mean 1.86, quartiles 1, 1, 3`."""
    if not counts:
        return "none"
    quartiles = ", ".join(f"{value:g}" for value in np.percentile(counts, (25, 50, 75)))
    return f"{min(counts):,} to {max(counts):,}, mean {np.mean(counts):.2f}, quartiles {quartiles}"
