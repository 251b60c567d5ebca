"""The examples of docs/client.md, run as they stand there on rows of a real server."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
ROWS = PAGE[PAGE.index("## Rows") : PAGE.index("## Python")]
EXAMPLES = re.findall(r"```python\n(.*?)```", ROWS, re.S)


@pytest.fixture
def labels(run, server, folder, tmp_path, monkeypatch):
    (folder / "07.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    run("classify", folder, "--head", "color", "--url", server.grpc_url)


def test_there_are_examples_for_three_readers():
    assert [re.search(r"import (\w+)", example)[1] for example in EXAMPLES] == ["duckdb", "pandas", "polars"]


@pytest.mark.parametrize("example", EXAMPLES, ids=["duckdb", "pandas", "polars"])
def test_an_example_runs_and_shows_labels(labels, example, capfd):
    exec(compile(example.replace("mld", "color"), "client.md", "exec"), {})
    printed = capfd.readouterr().out
    assert any(label in printed for label in ("red", "green", "blue", "bright"))
