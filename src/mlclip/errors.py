"""Everything that mlclip raises on purpose, in one tree.

::

    MlclipError             any of the below: catch this around a whole program
    ├── DataError           a manifest, labels file, COCO file or image folder cannot be used
    ├── EncoderError        an encoder is unknown, cannot be loaded, or lacks a requested output
    ├── CacheError          a features cache is broken, incomplete or belongs to something else
    ├── CheckpointError     a run folder cannot be read or written
    ├── TrainError          training or tuning cannot start or has failed
    ├── OutputError         a file or folder cannot be written, or is an input
    ├── ExportError         a model cannot be exported, or its export disagrees with torch
    └── ResultsError        a folder of measured results cannot be used or holds something else

A message is one line that says what is wrong and what to do about it. Command lines print the message and
exit with code 1; the traceback appears with `--debug` only.
"""

from __future__ import annotations


class MlclipError(Exception):
    """The root of the tree; the message is one line that says what to do, whatever is in names that it repeats."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class DataError(MlclipError):
    """A manifest, labels file, COCO file or image folder cannot be used."""


class EncoderError(MlclipError):
    """An encoder is unknown, cannot be loaded, or lacks a requested output."""


class CacheError(MlclipError):
    """A features cache is broken, incomplete or belongs to something else."""


class CheckpointError(MlclipError):
    """A run folder cannot be read or written."""


class TrainError(MlclipError):
    """Training or tuning cannot start or has failed."""


class OutputError(MlclipError):
    """A file or folder cannot be written, or is an input."""


class ExportError(MlclipError):
    """A model cannot be exported, or its export disagrees with torch."""


class ResultsError(MlclipError):
    """A folder of measured results cannot be used or holds something else."""
