"""Run folders: what training writes, and export and evaluation read.

A run is `head.safetensors` (weights), `config.json` (head, encoder, training settings), `labels.txt` (class names, one
per line, in the order of the logits), `thresholds.json` and `metrics.json`; a head that trains its encoder adds the
folder `encoder`. `trust.safetensors` has what `mlclip tune --calibrate` and `--novelty` fit.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mlclip_client.pixels import PixelSpec
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from mlclip.encoders import MODELS
from mlclip.encoders.clip import Encoder, encoder_folder, load_encoder
from mlclip.encoders.folder import save_encoder
from mlclip.errors import CheckpointError
from mlclip.files import locked, replacing_files, write_lines
from mlclip.heads import HEADS, Head
from mlclip.novelty import Novelty

FILES = ("config.json", "head.safetensors", "labels.txt", "metrics.json", "thresholds.json")
REFERENCES = "references.jsonl"
TRUST = "trust.safetensors"
OWN_ENCODER = "encoder"
VERSION = version("mlclip")


@dataclass(frozen=True)
class EncoderRef:
    """Which encoder a head was trained on, and how to load it again."""

    name: str  # for `load_encoder`, as is `pretrained`; for an encoder trained with the run, a folder inside the run's
    pretrained: str | None
    tag: str  # the encoder's name in files and in the model repository
    fingerprint: str  # of its image tower's weights and preprocessing
    spec: PixelSpec
    own: bool = False  # it was trained with the run, and its folder lies in the run's
    text_fingerprint: str | None = None  # of its text tower's weights; None for heads that do not use it
    # a run's own encoder: the module after training, its folder once the run was read
    source: Encoder | Path | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, encoder: Encoder, *, own: bool = False, text_tower: bool = False) -> "EncoderRef":
        """Describe a loaded encoder; `own`: it was trained with the run, `text_tower`: the head uses its text tower."""
        folder = encoder_folder(encoder.name)
        place = str(folder.resolve()) if folder and folder.parent != MODELS else encoder.name  # from any folder
        name, pretrained = (OWN_ENCODER, None) if own else (place, encoder.pretrained)
        texts, source = encoder.text_fingerprint if text_tower else None, encoder if own else None
        return cls(name, pretrained, encoder.tag, encoder.fingerprint, encoder.spec, own, texts, source)

    def fits(self, encoder: Encoder) -> bool:
        """Whether a loaded encoder returns the features that the head was trained on."""
        return not self._difference(encoder)

    def load(self) -> Encoder:
        """Load the encoder; raises CheckpointError if its weights or preprocessing have changed."""
        if isinstance(self.source, Encoder):
            return self.source
        name = self.name if self.source is None else str(self.source)
        if "/" in name and self.pretrained is None and encoder_folder(name) is None:
            raise CheckpointError(
                f"this run's encoder was the folder {name}, which is not there: put it back, or name its new place in "
                "the run's config.json"
            )
        encoder = load_encoder(name, self.pretrained, self.spec.decode)
        encoder.tag = self.tag
        if difference := self._difference(encoder):
            raise CheckpointError(
                f"the encoder {self.name!r} {difference}: train the head again or restore the encoder"
            )
        return encoder

    def _difference(self, encoder: Encoder) -> str:
        if encoder.fingerprint != self.fingerprint:
            different, found, expected = "is not the one", encoder.fingerprint, self.fingerprint
        elif self.text_fingerprint and self.text_fingerprint != encoder.text_fingerprint:
            different, found = "has another text tower than the one", encoder.text_fingerprint
            expected = self.text_fingerprint
        else:
            return ""
        return f"{different} this head was trained on (fingerprint {found}, expected {expected})"


@dataclass(frozen=True)
class Run:
    """A trained head, in evaluation mode, with all that is needed to use it.

    Class n of its logits is `labels[n]`, selected where its score is >= `thresholds[n]`, float32 [N]. `training` and
    `metrics` are a record of settings and measured figures. `calibration` is float32 [2, N], see `mlclip.calibration`.
    """

    head: Head
    labels: tuple[str, ...]
    thresholds: npt.NDArray[np.float32]
    encoder: EncoderRef
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    calibration: npt.NDArray[np.float32] | None = None
    novelty: Novelty | None = None

    @property
    def head_name(self) -> str:
        """The head's key in HEADS."""
        return self.head.name


def save_run(folder: Path, run: Run) -> None:
    """Write a run folder, all of its files or none; others in the folder stay. Raises CheckpointError."""
    encoder = asdict(replace(run.encoder, source=None))
    del encoder["source"]
    config = {
        "mlclip_version": VERSION,
        "head": {"name": run.head_name, "config": run.head.config},
        "encoder": encoder,
        "training": run.training,
    }
    source, labels = run.encoder.source, labels_file(run.labels)
    stays = isinstance(source, Path) and source.resolve() == (folder / OWN_ENCODER).resolve()
    try:
        with replacing_files(folder, (*FILES, REFERENCES, TRUST, *(() if stays else (OWN_ENCODER,)))) as new:
            (new / "labels.txt").write_bytes(labels)
            (new / "head.safetensors").write_bytes(save({k: v.contiguous() for k, v in run.head.state_dict().items()}))
            if run.head.reference_ids:
                (new / REFERENCES).write_bytes(references_file(run))
            if run.encoder.own and not stays:
                save_encoder(run.encoder.load(), new / OWN_ENCODER)
            write_json(new / "thresholds.json", dict(zip(run.labels, shortest(run.thresholds), strict=True)))
            trust = {} if run.calibration is None else {"calibration": run.calibration}
            if trust := trust | (run.novelty._asdict() if run.novelty else {}):
                (new / TRUST).write_bytes(save_arrays(trust))
            write_json(new / "config.json", config)
            write_json(new / "metrics.json", run.metrics)
    except OSError as error:
        raise CheckpointError(f"cannot write the run folder {folder}: {error.strerror or error}") from error


def load_run(folder: Path) -> Run:
    """Read a run folder; raises CheckpointError if a file is missing or broken, or files do not fit together."""
    try:
        for name in FILES:
            (folder / name).open("rb").close()
        config = _read_json(folder / "config.json")
        labels = tuple((folder / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1])
        by_label = _read_json(folder / "thresholds.json")
        thresholds = np.array([by_label[label] for label in labels], dtype=np.float32)
        head = HEADS[config["head"]["name"]](**config["head"]["config"])
        head.load_state_dict(load((folder / "head.safetensors").read_bytes()))
        if (folder / REFERENCES).is_file():
            lines = (folder / REFERENCES).read_text(encoding="utf-8").splitlines()
            head.reference_ids = tuple(json.loads(line)["id"] for line in lines)
        encoder = EncoderRef(**config["encoder"] | {"spec": PixelSpec(**config["encoder"]["spec"])})
        if encoder.own:
            encoder = replace(encoder, source=folder / OWN_ENCODER)
        trust = load_arrays((folder / TRUST).read_bytes()) if (folder / TRUST).is_file() else {}
        calibration = trust.pop("calibration", None)
        novelty = Novelty(**trust) if trust else None
        metrics, training = _read_json(folder / "metrics.json"), config["training"]
        if not isinstance(metrics, dict) or not isinstance(training, dict):
            raise TypeError("training and metrics must be objects")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{folder} is no run folder: {Path(error.filename).name} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # people edit these files, so anything may be in them
        raise CheckpointError(f"the run folder {folder} is broken: {type(error).__name__}: {error}") from error
    if len(labels) != head.config["classes"]:
        raise CheckpointError(
            f"{folder}: labels.txt has {len(labels)} labels, the head {head.config['classes']} classes"
        )
    return Run(head.eval().requires_grad_(False), labels, thresholds, encoder, training, metrics, calibration, novelty)


@contextmanager
def locked_run(folder: Path) -> Iterator[Run]:
    """Read a run folder; other commands that would change it wait until the block ends. Raises CheckpointError."""
    with ExitStack() as stack:
        with suppress(OSError):  # of a folder that is not there, which reading says better
            stack.enter_context(locked(folder))
        yield load_run(folder)


def edit_run(folder: Path, change: Callable[[Run], Run]) -> tuple[Run, Run]:
    """Change a run folder: concurrent edits wait for each other, and one that fails leaves the folder as it was.

    Where `change` returns the same run, nothing is written. Returns the run before and after.
    """
    with locked_run(folder) as before:
        after = change(before)
        if after is not before:
            save_run(folder, after)
    return before, after


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def labels_file(labels: Sequence[str]) -> bytes:
    """The bytes of labels.txt: UTF-8, one label per line; empty, repeated and multi-line labels are refused."""
    if len(set(labels)) < len(labels):
        raise CheckpointError("labels.txt: a label is given twice")
    for label in labels:
        if label.splitlines() != [label] or any("\ud800" <= character <= "\udfff" for character in label):
            raise CheckpointError(f"labels.txt: {label!r} is empty, no valid text or holds a newline; rename it")
    return "".join(f"{label}\n" for label in labels).encode()


def shortest(values: npt.NDArray[np.float32]) -> tuple[float, ...]:
    """Give each float32 as the float64 with the shortest decimal that reads back as the same float32."""
    return tuple(float(str(value)) for value in values.astype(np.float32))


def references_file(run: Run) -> bytes:
    """The bytes of references.jsonl: one object per reference, in the head's order, with `id` and `labels`."""
    targets = run.head.reference_targets().numpy() > 0
    lines = (
        json.dumps({"id": name, "labels": [run.labels[n] for n in np.flatnonzero(row)]})
        for name, row in zip(run.head.reference_ids, targets, strict=True)
    )
    return "".join(f"{line}\n" for line in lines).encode()


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with a final newline; the file appears whole or not at all."""
    write_lines(path, [json.dumps(value, indent=2, ensure_ascii=False) + "\n"])
