"""The command line `mlclip-bench`: a command per study, and the tables of README files."""

from pathlib import Path
from typing import Annotated

import typer

from mlclip.console import console, run_app
from mlclip_bench.heads.cli import heads
from mlclip_bench.kit.options import DebugOption
from mlclip_bench.load.cli import load
from mlclip_bench.peers.cli import peers
from mlclip_bench.scaling.cli import agree, scaling

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.callback(invoke_without_command=True)(scaling)


@app.command()
def tables(
    files: Annotated[list[Path], typer.Argument(help="Markdown files with `<!-- NAME -->` … `<!-- end -->`.")],
    results: Annotated[Path, typer.Option(help="The committed results.")] = Path("benchmarks/results"),
    debug: DebugOption = False,
) -> None:
    """Write the tables of README files again from measured results."""
    from mlclip_bench.readme_tables import write_tables

    changed = write_tables(files, results)
    console.print(f"changed: {', '.join(map(str, changed)) or 'nothing'}", soft_wrap=True)


for command in (agree, heads, load, peers):
    app.command()(command)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
