"""The command line: which runs it takes, what it says, how it ends."""

import sys

import pytest
from mlclip_export import cli
from mlclip_export.facts import read_facts

from mlclip.checkpoint import save_run


def run(monkeypatch, capsys, *arguments):
    """Run the command; give exit code and its output and errors with runs of space made one."""
    monkeypatch.setattr(sys, "argv", ["mlclip-export", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return ended.value.code or 0, " ".join(out.split()), " ".join(err.split())


@pytest.fixture
def runs(tmp_path, encoder, make_run):
    for name in ("one", "two"):
        save_run(tmp_path / "runs" / name, make_run(encoder))
    return tmp_path / "runs"


def test_without_arguments_all_runs_are_exported(monkeypatch, capsys, tmp_path, runs):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(monkeypatch, capsys)
    assert code == 0
    assert set(read_facts(tmp_path / "model_repository").heads) == {"one", "two"}
    assert "head_one" in out and "logits" in out and "heads_nano_bytes" in out
    assert "`mlclip-serve model_repository` serves it" in out


def test_head_picks_a_run_and_name_renames_it(monkeypatch, capsys, tmp_path, runs):
    options = ["--runs", runs, "--out", tmp_path / "repository"]
    code, _, _ = run(
        monkeypatch, capsys, "--head", "one", "--run", runs / "two", "--name", "a", "--name", "b", *options
    )
    assert code == 0
    assert set(read_facts(tmp_path / "repository").heads) == {"a", "b"}


def test_no_runs_is_one_line_that_says_what_to_do(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(monkeypatch, capsys)
    assert code == 1
    assert err.startswith("error: there is no run in runs: train a head")


def test_missing_run(monkeypatch, capsys, tmp_path):
    code, _, err = run(monkeypatch, capsys, "--head", "mld", "--runs", tmp_path)
    assert code == 1
    assert "is no run folder: config.json is missing" in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(monkeypatch, capsys, tmp_path):
    code, _, err = run(monkeypatch, capsys, "--head", "mld", "--runs", tmp_path, "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--head", "one", "--name", "a", "--name", "b"],
        ["--head", "one", "--head", "one"],
        ["--fp16", "--accelerator", "cuda"],
        ["--format", "openvino"],
        ["--precision", "int8", "--format", "tensorrt"],
        ["--refit"],
        ["--max-batch", "0"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(monkeypatch, capsys, runs, arguments):
    code, _, _ = run(monkeypatch, capsys, "--runs", runs, *arguments)
    assert code == 2


def test_precision_needs_the_data_of_the_run(monkeypatch, capsys, tmp_path, runs):
    code, _, err = run(monkeypatch, capsys, "--runs", runs, "--out", tmp_path / "repository", "--precision", "int8")
    assert (code, err) == (1, "error: this run does not record the data it was trained on: name it with --data")


def test_plans_say_what_is_missing(monkeypatch, capsys, tmp_path, runs):
    monkeypatch.setattr("mlclip_export.tensorrt.has_gpu", lambda: False)
    out = tmp_path / "repository"
    code, _, err = run(monkeypatch, capsys, "--head", "one", "--runs", runs, "--out", out, "--format", "tensorrt")
    assert code == 1
    assert "an NVIDIA GPU with its driver on this machine" in err
    assert not out.exists()
