import json
import sys
from pathlib import Path

import pytest
from mlclip_bench.cli import main
from mlclip_bench.load.define import Closed, Open
from mlclip_bench.load.sweep import Results
from mlclip_bench.readme_tables import TABLES, write_tables

from mlclip.errors import ResultsError

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FILES = [ROOT / "docs" / "results.md"]


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


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("results", ["nowhere", "empty", "partly"])
def test_a_table_without_its_results_is_told_in_one_line(tmp_path, name, results):
    if results != "nowhere":
        (tmp_path / results).mkdir()
    if results == "partly":
        for folder in ("openclip-top46", "scaling", "peers", "load"):
            (tmp_path / results / folder).mkdir()
    copy = tmp_path / "notes.md"
    copy.write_text(f"<!-- {name} -->\n<!-- end -->\n")
    with pytest.raises(ResultsError, match=results) as told:
        write_tables([copy], tmp_path / results)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", [None, b"\xff"], ids=["missing", "no UTF-8"])
def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path, content, monkeypatch, capsys):
    if content is not None:
        (tmp_path / "notes.md").write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["mlclip-bench", "tables", str(tmp_path / "notes.md")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "notes.md: cannot be read" in said and said.count("\n") == 1


def test_a_file_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    copy = tmp_path / "notes.md"
    copy.write_text("<!-- losses -->\n<!-- end -->\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(ResultsError, match=r"notes\.md: cannot be written: Permission denied"):
        write_tables([copy], RESULTS)


def test_a_level_of_load_says_by_how_much_it_is_not_stable(tmp_path, make_line, make_window):
    results = Results(tmp_path / "load")
    results.append(make_line(Closed(2), [make_window([0.1] * 9)] * 3))
    for rate, windows in {
        5: [[0.1] * 5] * 3,
        6: [[0.1] * 6, [0.12] * 6, [0.15] * 6],
        7: [[0.1] * 7, [0.1] * 7, [0.2] * 14],
        9: [[0.9] * 9] * 3,
    }.items():
        results.append(make_line(Open(float(rate)), [make_window(window) for window in windows]))
    rows = [line.split(" | ") for line in TABLES["load"](tmp_path).splitlines() if "|" in line]
    place = rows[0].index("stable")
    assert {row[0].strip("| "): row[place] for row in rows[2:]} == {
        "concurrency 2": "yes",
        "5 images/s come": "yes",
        "6 images/s come": "no, latency × 1.50",
        "7 images/s come": "no, rate × 2.00, latency × 2.00",
        "9 images/s come": "yes",
    }


def test_rates_around_the_one_that_holds_are_in_the_table_of_load(tmp_path, make_line, make_window):
    results = Results(tmp_path / "load")
    for rate, seconds in {5: 0.1, 6: 0.15, 7: 0.5, 8: 0.6}.items():
        results.append(make_line(Open(float(rate)), [make_window([seconds] * rate)] * 3, purpose="search"))
    rows = [line.split(" | ")[0].strip("| ") for line in TABLES["load"](tmp_path).splitlines() if "|" in line]
    assert rows[2:] == ["6 images/s come", "7 images/s come"]


def test_a_peer_with_a_wide_interval_is_marked(tmp_path):
    figures = json.loads((RESULTS / "peers" / "peers.json").read_text(encoding="utf-8"))
    figures["peers"]["mlclip-triton"]["ratio"] |= {"stable": False}
    figures["peers"]["mlclip-onnx"]["ratio"] |= {"stable": True}
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "peers.json").write_text(json.dumps(figures), encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| "): line for line in TABLES["peers"](tmp_path).splitlines()}
    assert rows["mlclip's client and Triton, with labels"].endswith(") ~ |")
    assert rows["mlclip's pixels and ONNX encoder, in one process"].endswith(") |")


def test_an_unknown_table_is_refused(tmp_path):
    copy = tmp_path / "notes.md"
    copy.write_text("<!-- prices -->\n<!-- end -->\n")
    with pytest.raises(ResultsError, match="no table is called 'prices'"):
        write_tables([copy], RESULTS)
    assert copy.read_text() == "<!-- prices -->\n<!-- end -->\n"
