"""The trials of a search: a file of JSON lines that a search appends to, and from which it resumes.

The first line describes the search; each further line is a trial.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlclip.errors import ResultsError, TrainError
from mlclip.json_lines import append_line, different, read_lines
from mlclip.tune.judge import Judgement
from mlclip.tune.space import Settings


@dataclass(frozen=True)
class Trial:
    """One point of a search."""

    number: int
    settings: Settings
    score: float  # what the search maximises, in [0, 1]; 0 where the settings cannot work
    # the global threshold with the best F-beta on validation; None where the settings cannot work
    threshold: float | None
    seconds: float  # time it took; 0 where the settings had been measured before
    error: str | None = None  # why the settings cannot work


class Study:
    """Trials so far, in a file, and how to make more of them.

    `about` has plain JSON values that tell this search from others. Raises ResultsError if the file belongs to another
    search, or cannot be read or written.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        judge: Callable[[Settings], Judgement],
        on_trial: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self.path, self.judge, self.on_trial = path, judge, on_trial
        lines = read_lines(path, "line of a search", lambda line: Trial(**line) if "number" in line else line["search"])
        if not lines:
            append_line(path, about)
        elif names := different(lines[0], about):
            raise ResultsError(
                f"{path} holds another search ({', '.join(names)} differ): name another file with --study, or delete it"
            )
        self.trials = [Trial(**line) for line in lines if "number" in line]

    @property
    def best(self) -> Trial:
        """The trial with the highest score; of equals, the first. Raises TrainError if no settings worked."""
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
        append_line(self.path, asdict(trial))
        self.trials.append(trial)
        self.on_trial(trial)
        return trial

    def known(self, settings: Settings) -> Trial | None:
        """The trial of these settings, if there is one."""
        return next((trial for trial in self.trials if trial.settings == settings), None)
