"""All methods on one data set and one encoder: define, run, store raw, derive and draw, a file each.

::

    studies, floors           what is compared: names of variants, each with its recipe; and what needs no encoder
    run                       measures what has not been measured yet, and yields one raw line a run
    results                   the raw lines, and the test scores behind them
    statistics                intervals of the differences, by resampling test pictures
    derived                   from raw lines to means, intervals and curves; nothing is measured again
    figures, tables, report   Markdown
    pictures                  PNG and SVG
"""

from mlclip_bench.heads.derived import Derived, derive
from mlclip_bench.heads.pictures import draw
from mlclip_bench.heads.report import write_report
from mlclip_bench.heads.results import Results
from mlclip_bench.heads.run import Task, measure_missing, missing, plan, setting_of, warm
from mlclip_bench.heads.studies import STUDIES, variants_of

__all__ = [
    "STUDIES",
    "Derived",
    "Results",
    "Task",
    "derive",
    "draw",
    "measure_missing",
    "missing",
    "plan",
    "setting_of",
    "variants_of",
    "warm",
    "write_report",
]
