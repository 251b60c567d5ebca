"""The commands `mlclip-client drift` and `review`."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlclip_client.cli.ending import check_stdout, say
from mlclip_client.cli.options import refuse_inputs
from mlclip_client.files import replacing
from mlclip_client.output.files import check_output
from mlclip_client.output.tally import REJECTED
from mlclip_client.wording import counted

Rows = Annotated[Path, typer.Argument(help="Rows of `classify`: a Parquet file, a folder of them, or a job's folder.")]


def drift(
    labels: Rows,
    since: Annotated[Path | None, typer.Option(help="Compare with these rows, not with validation.")] = None,
    alarm: Annotated[
        float,
        typer.Option(min=0, max=1, help="Change of a share, or of novelty, that is an alarm once it is certain."),
    ] = 0.1,
    as_json: Annotated[bool, typer.Option("--json", help="Print all changes as JSON.")] = False,
) -> None:
    """Say how label rates and novelty differ from validation's or from other rows', the most certain changes first.

    Exit code: 0 no alarm, 1 or 2 as elsewhere, 3 a change is certainly larger than --alarm.
    """
    from mlclip_client.review.drift import find_changes  # loads numpy and pyarrow

    check_stdout()
    changes = find_changes(labels, since)
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in changes], indent=1))
    else:
        for change in changes[:20]:
            what = "median novelty" if change.what is None else f"label {change.what!r}"
            mark = "  ALARM" if change.certain > alarm else ""
            typer.echo(
                f"{change.head}: {what}: {change.before:.1%} to {change.after:.1%} "
                f"({change.low:+.1%} to {change.high:+.1%}){mark}"
            )
    if changes[0].certain > alarm:
        raise typer.Exit(REJECTED)


def review(
    labels: Rows,
    budget: Annotated[int, typer.Option(min=1, help="Most pictures to choose.")] = 200,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("queue.jsonl"),
    format: Annotated[
        Literal["manifest", "label-studio"],
        typer.Option(help="A manifest (.jsonl), or tasks with predictions for Label Studio (.json)."),
    ] = "manifest",
    head: Annotated[str | None, typer.Option(help="Head whose answers count, if rows have several.")] = None,
) -> None:
    """Choose the pictures that a person should look at, each with the reason: uncertain, novel or few images."""
    check_output(out, ".jsonl" if format == "manifest" else ".json")
    refuse_inputs([out], [labels])
    from mlclip_client.review.choose import choose, label_studio_task  # loads numpy and pyarrow

    pictures = choose(labels, budget, head)
    if format == "manifest":
        text = "".join(json.dumps(picture._asdict()) + "\n" for picture in pictures)
    else:
        text = json.dumps(list(map(label_studio_task, pictures)), indent=1)
    with replacing(out) as file:
        file.write(text.encode())
    reasons = Counter(picture.reason.partition(":")[0] for picture in pictures)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    say(f"{counted(len(pictures), 'picture')} to look at ({counts}); written to {out}")
