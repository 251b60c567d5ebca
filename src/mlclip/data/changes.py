"""What cleaning did to a data set: one entry for each image or label that was dropped or merged, and why."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mlclip.data.text_files import write_text


@dataclass(frozen=True)
class Change:
    """One entry of the log."""

    # `dropped` removes an image, `merged` gives its labels to another, `label dropped` removes a label from all images
    action: str
    what: str  # the image's path, or the label
    reason: str  # the same few words for the same cause, so that they can be counted
    partner: str | None = None  # the image that stays in its place
    similarity: float | None = None  # cosine similarity to the partner
    labels: tuple[str, ...] = ()  # the labels it had; of a merge, those that are new to the partner
    images: int | None = None  # how many images had the label that was dropped

    def to_json(self) -> str:
        """One line; fields that do not apply are left out."""
        fields = {name: value for name, value in vars(self).items() if value is not None and value != ()}
        if self.similarity is not None:
            fields["similarity"] = round(self.similarity, 6)
        return json.dumps(fields, ensure_ascii=False)


def reasons(changes: Iterable[Change], action: str = "dropped") -> dict[str, int]:
    """How many entries of one action each reason has, in the order of their first appearance."""
    return dict(Counter(change.reason for change in changes if change.action == action))


def write_changes(changes: Iterable[Change], path: Path) -> None:
    """Write the log as JSON lines."""
    write_text(path, (f"{change.to_json()}\n" for change in changes))
