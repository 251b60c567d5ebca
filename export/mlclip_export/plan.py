"""What an export needs: the encoders of its runs, and the graphs of an earlier export that can be used again."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlclip.checkpoint import EncoderRef, Run, labels_file
from mlclip.encoders.clip import Encoder
from mlclip.errors import ExportError
from mlclip_export.facts import EncoderFacts, Facts, TextFacts
from mlclip_export.graphs import EXPORTER
from mlclip_export.options import Precision
from mlclip_export.repository import latest_version

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RESERVED = ("preprocess", "tokenize", "text_encoder_", "encoder_", "head_", "heads_", "threshold_", "references_")


@dataclass(frozen=True)
class EncoderPlan:
    """An encoder to export, and the runs on it by their names in the repository."""

    reference: EncoderRef
    runs: dict[str, Run]

    def load(self, loaded: Sequence[Encoder]) -> Encoder:
        """Give the encoder: one of those that are loaded already, if it fits."""
        for encoder in loaded:
            if encoder.tag == self.reference.tag and self.reference.fits(encoder):
                return encoder
        return self.reference.load()


def plan_encoders(runs: Mapping[str, Run]) -> list[EncoderPlan]:
    """Group runs by their encoders.

    Raises ExportError if a name or a run cannot be used, or if encoders contradict each other; CheckpointError for a
    label with a newline.
    """
    plans: dict[str, EncoderPlan] = {}
    for name, run in runs.items():
        _check_run(name, run)
        plan = plans.setdefault(run.encoder.tag, EncoderPlan(run.encoder, {}))
        text_towers = {plan.reference.text_fingerprint, run.encoder.text_fingerprint} - {None}
        if plan.reference.fingerprint != run.encoder.fingerprint or len(text_towers) > 1:
            raise ExportError(
                f"head {name} was trained on other weights of {run.encoder.tag} than the other heads: train them "
                "on one encoder, or export to another --out"
            )
        reference = run.encoder if plan.reference.text_fingerprint is None else plan.reference
        plans[run.encoder.tag] = EncoderPlan(reference, plan.runs | {name: run})
    return list(plans.values())


def check_replacements(
    plans: Iterable[EncoderPlan], runs: Mapping[str, Run], before: Facts, precision: Precision = "fp32"
) -> None:
    """Refuse to replace an encoder in the repository while heads that are not exported now read it.

    An encoder of the same weights in float32 may come: those heads were trained on it. The ExportError names them.
    """
    for reference in (plan.reference for plan in plans):
        served = before.encoders.get(reference.tag)
        staying = [head.name for head in before.heads_on(reference.tag) if head.name not in runs]
        other = served is None or served.fingerprint != reference.fingerprint
        if (other or precision != "fp32") and staying:
            state = "cannot be read" if served is None else "has other weights" if other else "gets another precision"
            raise ExportError(
                f"the repository's encoder_{reference.tag} {state}, and {', '.join(staying)} read it: export them too, "
                "or use another --out"
            )


def earlier_graphs(repository: Path, before: Facts) -> dict[str, Path]:
    """Find the graphs of encoders and text towers that the same exporter wrote earlier: fingerprint to folder."""
    towers: dict[str, EncoderFacts | TextFacts] = {
        f"encoder_{tag}": tower for tag, tower in before.encoders.items() if tower.precision != "int8"
    }
    towers |= {f"text_encoder_{tag}": tower.text for tag, tower in before.encoders.items() if tower.text}
    return {
        tower.fingerprint: latest_version(repository / model)
        for model, tower in towers.items()
        if tower.exporter == EXPORTER
    }


def _check_run(name: str, run: Run) -> None:
    if not _NAME.fullmatch(name):
        raise ExportError(f"{name!r} cannot name a head: use letters, digits, '_', '-' and '.' (--name)")
    if name.startswith(_RESERVED) or name.endswith("_bytes"):
        raise ExportError(f"{name!r} cannot name a head: other models are named like it; choose another --name")
    labels_file(run.labels)
    if len(run.thresholds) != len(run.labels):
        raise ExportError(f"head {name}: {len(run.thresholds)} thresholds for {len(run.labels)} labels; train it again")
