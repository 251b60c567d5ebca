"""The command `mlclip-client` from its first moment: light to load, so that Ctrl-C is heeded while the rest loads."""

from __future__ import annotations

import os
import sys

_FAILED, _CTRL_C = 1, 130
"""Exit codes: of `tally`, which is not loaded yet, and typer's own, which says nothing."""


def main() -> None:
    """Run the command line; who is stopped before there is anything to keep says so in a line."""
    if sys.stderr is None:  # closed: what it says is for nobody
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    try:
        from mlclip_client.cli import main as run

        run()
    except KeyboardInterrupt:
        _stop()
    except SystemExit as end:
        if end.code != _CTRL_C:
            raise
        _stop()


def _stop() -> None:
    sys.stderr.write("error: interrupted\n")
    sys.stderr.flush()
    os._exit(_FAILED)  # where an extension module met Ctrl-C first, the interpreter would end by the signal


if __name__ == "__main__":
    main()
