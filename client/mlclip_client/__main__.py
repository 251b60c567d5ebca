"""Entry point of the command `mlclip-client`: light to load, so that Ctrl-C works while the rest loads."""

import os
import sys

_FAILED, _CTRL_C = 1, 130  # exit codes: `tally.FAILED`, which is not loaded yet, and typer's own after Ctrl-C


def main() -> None:
    """Run the command line; Ctrl-C before there are rows to keep ends it with one line."""
    if sys.stderr is None:  # closed: messages go nowhere
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
    os._exit(_FAILED)  # if Ctrl-C met an extension module first, the interpreter would end by the signal


if __name__ == "__main__":
    main()
