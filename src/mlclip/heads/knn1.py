"""The nearest neighbour: labels are copied from the most similar reference image."""

from mlclip.heads.neighbors import NeighborSearch


class NearestNeighbor(NeighborSearch):
    """Neighbour search with one neighbour, whose weight is 1; the baseline of Bynke 2022 (document 002), 4.1.3.

    Scores are the labels of that reference, 0 or 1, so a ranking of images by them is mostly ties.
    """

    name = "knn1"
    source = "002, 4.1.3"
    search = {}

    def __init__(self, classes: int, width: int, references: int = 0) -> None:
        super().__init__(classes, width, temperature=1.0, max_neighbors=1, references=references)
        self.config = {"classes": classes, "width": width, "references": references}
