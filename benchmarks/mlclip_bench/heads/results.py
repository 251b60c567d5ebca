"""The raw store: one JSON line a run in `results.jsonl`, and the test scores behind it in `scores/`.

Scores are float32 and stay out of version control, since what the report needs of them is derived into
`statistics.json`; intervals and curves can be derived anew only where the scores are. Of several lines with one key
the last counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from mlclip.errors import ResultsError
from mlclip.json_lines import Line, append_line, read_lines

Key = tuple[str, int | None, int]
SETTING: Mapping[str, Callable[[Line], object]] = {
    "variants (another study)": lambda line: line["study"],
    "data": lambda line: line["data"]["digest"],
    "encoder weights": lambda line: line["encoder"]["fingerprint"],
}


@dataclass(frozen=True)
class TestScores:
    """What a run said of the test pictures.

    Attributes:
        scores: float32 [R, N].
        thresholds: float32 [N].
    """

    __test__ = False  # not a test case, whatever its name begins with

    scores: npt.NDArray[np.float32]
    thresholds: npt.NDArray[np.float32]


def key_of(line: Line) -> Key:
    """Variant, training images a class (None for all) and seed: what tells runs of one folder apart."""
    return line["variant"], line["shots"], line["seed"]


class Results:
    """A folder of measured runs.

    Args:
        folder: made when the first line is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self._scores = folder / "scores"
        self._note = folder / "note.md"

    def lines(self) -> list[Line]:
        """The last line of every key, in the order in which keys first appeared; empty before the first run.

        Raises:
            ResultsError: the file cannot be read, or a line other than an unfinished last one is no JSON.
        """
        return list({key_of(line): line for line in read_lines(self.path, "result", key_of)}.values())

    def check(self, setting: Line) -> None:
        """Refuse to mix: every line must come from the same study, data and encoder.

        Raises:
            ResultsError: one does not.
        """
        for line in self.lines():
            wrong = [name for name, get in SETTING.items() if get(line) != get(setting)]
            if wrong:
                raise ResultsError(
                    f"{self.path} was measured with other {' and '.join(wrong)}: name another folder with --out"
                )

    def append(self, line: Line, outcome: TestScores | None) -> Line:
        """Write a run: its scores first, so that a line never stands without them.

        Returns:
            The line as written, with the file and the hash of its scores.

        Raises:
            ResultsError: the folder is not writable.
        """
        try:
            if outcome is not None:
                line = line | {"scores": {"file": _file_name(line), "sha256": _digest(outcome)}}
                self._save(line["scores"]["file"], scores=outcome.scores, thresholds=outcome.thresholds)
        except OSError as error:
            raise ResultsError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        append_line(self.path, line)
        return line

    def scores(self, line: Line) -> TestScores | None:
        """The test scores of a run, or None where they are not here."""
        stored = self._load(line["scores"]["file"]) if "scores" in line else None
        if stored is None:
            return None
        outcome = TestScores(stored["scores"], stored["thresholds"])
        return outcome if _digest(outcome) == line["scores"]["sha256"] else None

    def save_note(self, note: str) -> None:
        """Keep a sentence for the report in `note.md`, which people may edit.

        Raises:
            ResultsError: the folder is not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._note.write_text(note.strip() + "\n", encoding="utf-8")
        except OSError as error:
            raise ResultsError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

    def note(self) -> str:
        """What `note.md` says; empty where there is none."""
        return self._note.read_text(encoding="utf-8").strip() if self._note.exists() else ""

    def save_targets(self, targets: npt.NDArray[np.uint8]) -> None:
        """Keep the test labels, uint8 [R, N], beside the scores.

        Raises:
            ResultsError: the folder is not writable.
        """
        try:
            self._save("targets.npz", targets=targets)
        except OSError as error:
            raise ResultsError(f"{self.folder}: cannot be written: {error.strerror or error}") from error

    def targets(self) -> npt.NDArray[np.uint8] | None:
        """The test labels, or None where they are not here."""
        stored = self._load("targets.npz")
        return None if stored is None else stored["targets"]

    def _save(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        self._scores.mkdir(parents=True, exist_ok=True)
        (self._scores / ".gitignore").write_text("*\n")
        part = self._scores / f"{name}.part"
        with part.open("wb") as file:
            np.savez_compressed(file, **arrays)
        part.replace(self._scores / name)

    def _load(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        try:
            with np.load(self._scores / name, allow_pickle=False) as stored:
                return dict(stored)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, BadZipFile) as error:
            raise ResultsError(f"{self._scores / name}: cannot be read: delete the file ({error})") from error


def _file_name(line: Line) -> str:
    """Readable, and unique by a few digits of the name's hash."""
    word = re.sub(r"[^a-z0-9]+", "-", line["variant"].lower()).strip("-")
    mark = hashlib.sha256(line["variant"].encode()).hexdigest()[:6]
    return f"{word}-{mark}.shots-{line['shots'] or 'all'}.seed-{line['seed']}.npz"


def _digest(outcome: TestScores) -> str:
    digest = hashlib.sha256()
    for array in (outcome.scores, outcome.thresholds):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
