"""The raw results of a study: one JSON line per run in `results.jsonl`, and the test scores behind it in `scores/`.

Scores are float32 and stay out of version control, as what the report needs of them is derived into `statistics.json`.
Intervals and curves can be derived again only where the scores are. Of several lines with one key, the last counts.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from mlclip_client.files import replacing

from mlclip.errors import ResultsError
from mlclip.json_lines import Line
from mlclip_bench.kit.files import cannot_write, read_text, write_text
from mlclip_bench.kit.store import Store

Key = tuple[str, int | None, int]


@dataclass(frozen=True)
class TestScores:
    """Scores of the test images, float32 [R, N], and thresholds, float32 [N]."""

    __test__ = False  # not a test case, in spite of its name

    scores: npt.NDArray[np.float32]
    thresholds: npt.NDArray[np.float32]

    def digest(self) -> str:
        """SHA-256 of both."""
        digest = hashlib.sha256()
        for array in (self.scores, self.thresholds):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class Results(Store):
    """A folder of measured runs."""

    @staticmethod
    def key(line: Line) -> Key:
        """Variant, training images per class (None for all) and seed."""
        return line["variant"], line["shots"], line["seed"]

    def check(self, setting: Line) -> None:
        """Refuse to mix runs of different studies, data or encoders."""
        self.check_same(_compared(setting), map(_compared, self.lines()))

    def add_run(self, line: Line, outcome: TestScores | None) -> Line:
        """Write a run: its scores first, so that no line is without them; gives the line with their file and hash."""
        if outcome is not None:
            line = line | {"scores": {"file": _file_name(line), "sha256": outcome.digest()}}
            self._save(line["scores"]["file"], scores=outcome.scores, thresholds=outcome.thresholds)
        return self.append(line)

    def scores(self, line: Line) -> TestScores | None:
        """The test scores of a run, or None if they are not here."""
        stored = self._load(line["scores"]["file"]) if "scores" in line else None
        if stored is None:
            return None
        outcome = TestScores(stored["scores"], stored["thresholds"])
        return outcome if outcome.digest() == line["scores"]["sha256"] else None

    def save_note(self, note: str) -> None:
        """Keep a sentence for the report in `note.md`, which people may edit."""
        write_text(self.folder / "note.md", note.strip() + "\n")

    def note(self) -> str:
        """The content of `note.md`; empty without one."""
        path = self.folder / "note.md"
        return read_text(path).strip() if path.exists() else ""

    def save_targets(self, targets: npt.NDArray[np.uint8]) -> None:
        """Keep the test labels, uint8 [R, N], beside the scores."""
        self._save("targets.npz", targets=targets)

    def targets(self) -> npt.NDArray[np.uint8] | None:
        """The test labels, or None if they are not here."""
        stored = self._load("targets.npz")
        return None if stored is None else stored["targets"]

    @property
    def _scores(self) -> Path:
        return self.folder / "scores"

    def _save(self, name: str, **arrays: npt.NDArray[Any]) -> None:
        try:
            self._scores.mkdir(parents=True, exist_ok=True)
            (self._scores / ".gitignore").write_text("*\n")
            with replacing(self._scores / name) as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def _load(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        try:
            with np.load(self._scores / name, allow_pickle=False) as stored:
                return dict(stored)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, BadZipFile) as error:
            raise ResultsError(f"{self._scores / name}: cannot be read: delete the file ({error})") from error


def _compared(line: Line) -> Line:
    return {"study": line["study"], "data": line["data"]["digest"], "encoder": line["encoder"]["fingerprint"]}


def _file_name(line: Line) -> str:
    word = re.sub(r"[^a-z0-9]+", "-", line["variant"].lower()).strip("-")
    mark = hashlib.sha256(line["variant"].encode()).hexdigest()[:6]
    return f"{word}-{mark}.shots-{line['shots'] or 'all'}.seed-{line['seed']}.npz"
