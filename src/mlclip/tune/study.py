"""The trials of a search: a file of JSON lines that a search writes as it goes, and goes on from when started again.

The first line says which search it is; each further line is a trial.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlclip.errors import TrainError
from mlclip.tune.judge import Judgement
from mlclip.tune.space import Settings


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Attributes:
        number: from 1.
        settings: what was varied, and its values.
        score: what the search maximises, in [0, 1]; 0 where the settings cannot work.
        threshold: the global threshold with the best F-beta on validation; None where the settings cannot work.
        seconds: time it took; 0 where the settings had been measured before.
        error: why the settings cannot work.
    """

    number: int
    settings: Settings
    score: float
    threshold: float | None
    seconds: float
    error: str | None = None


class Study:
    """Trials so far, and how to make more of them.

    Args:
        path: the file; what it holds is read, and what a killed writer left half done is cut off.
        about: plain JSON values that tell this search from others.
        judge: measures settings.
        on_trial: called after each new trial.

    Attributes:
        trials: in order.

    Raises:
        TrainError: the file belongs to another search, is none, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        judge: Callable[[Settings], Judgement],
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self.path, self.judge, self.on_trial = path, judge, on_trial
        try:
            lines = _whole_lines(path)
            if lines:
                _same_search(path, json.loads(lines[0]), json.loads(json.dumps(about)))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._append(about)
            self.trials = [Trial(**json.loads(line)) for line in lines[1:]]
        except (OSError, ValueError, TypeError) as error:
            raise TrainError(f"{path} cannot be used as the trials of a search: {error}") from error

    @property
    def best(self) -> Trial:
        """The trial with the highest score, the first of equals.

        Raises:
            TrainError: no settings worked.
        """
        best = max(self.trials, key=lambda trial: trial.score)
        if best.error is not None:
            raise TrainError(f"no trial worked; the first said: {self.trials[0].error}")
        return best

    def measure(self, settings: Settings) -> Trial:
        """Make one more trial; settings that were measured before get their score again without the work."""
        known, number = self.known(settings), len(self.trials) + 1
        if known:
            trial = replace(known, number=number, seconds=0.0)
        else:
            start = time.perf_counter()
            judged = self.judge(settings)
            trial = Trial(number, settings, **asdict(judged), seconds=round(time.perf_counter() - start, 3))
        self._append(asdict(trial))
        self.trials.append(trial)
        self.on_trial(trial)
        return trial

    def known(self, settings: Settings) -> Trial | None:
        """The trial of these settings, if there is one."""
        return next((trial for trial in self.trials if trial.settings == settings), None)

    def _append(self, value: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    return whole.splitlines()


def _same_search(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    different = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if different:
        raise TrainError(
            f"{path} holds another search ({', '.join(different)} differ): name another file with --study, or delete it"
        )
