from pathlib import Path

import pytest
from mlclip_bench.readme import TABLES, write_tables

from mlclip.errors import ResultsError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FILES = [ROOT / "README.md", RESULTS / "README.md"]


def test_the_tables_that_people_read_are_those_of_the_results(tmp_path):
    for file in FILES:
        copy = tmp_path / "README.md"
        copy.write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
        assert write_tables([copy], RESULTS) == [], f"{file}: `mlclip-bench tables {file.relative_to(ROOT)}` mends it"


def test_every_table_stands_in_a_file():
    texts = "".join(file.read_text(encoding="utf-8") for file in FILES)
    assert [name for name in TABLES if f"<!-- {name} -->" not in texts] == []


def test_a_changed_figure_is_put_right(tmp_path):
    copy, text = tmp_path / "README.md", FILES[0].read_text(encoding="utf-8")
    start = text.index("<!-- heads map -->")
    copy.write_text(text[:start] + text[start:].replace("| `sigmoid` | ", "| `sigmoid` | 9", 1), encoding="utf-8")
    assert copy.read_text(encoding="utf-8") != text
    assert write_tables([copy], RESULTS) == [copy]
    assert copy.read_text(encoding="utf-8") == text


def test_an_unknown_table_is_refused(tmp_path):
    copy = tmp_path / "notes.md"
    copy.write_text("<!-- prices -->\n<!-- end -->\n")
    with pytest.raises(ResultsError, match="no table is called 'prices'"):
        write_tables([copy], RESULTS)
    assert copy.read_text() == "<!-- prices -->\n<!-- end -->\n"
