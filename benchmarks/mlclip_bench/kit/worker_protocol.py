"""The worker's side of the conversation with the bench: one JSON object per line, requests on stdin, answers on stdout.

`python worker_protocol.py SCRIPT …` runs in any environment: it needs the standard library only. What the script and
its libraries print goes to stderr. An exception is answered with `{"error": "one line"}`; end of input ends the worker.

    {"do": "load", …settings}    what `load(settings)` of the script says about what it loaded
    {"do": "run", …arguments}    what the function that `load` gave returns for these arguments

So a script defines `load(settings)`, which returns that function and a dict; both answers are dicts of JSON values.
"""

import json
import os
import runpy
import sys


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    load, run = runpy.run_path(sys.argv[1])["load"], None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request.pop("do") == "load":
                run, answer = load(request)
            elif run is None:
                raise RuntimeError("nothing is loaded")
            else:
                answer = run(**request)
        except Exception as error:  # libraries share no base class, and the bench decides what an error means
            answer = {"error": ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
