"""The command from its words to its files, once against a real Triton; and what it refuses, in one line."""

import socket
import sys
from contextlib import nullcontext

import pytest
import typer
from mlclip_bench.load.cli import load
from mlclip_bench.load.define import Closed
from mlclip_bench.load.sweep import Results
from mlclip_bench.load.target import Target

from mlclip.console import run_app

QUICK = "--window 0.5 --window-requests 3 --window-arrivals 10 --warmup 0.1 --max-windows 3".split()


@pytest.fixture
def command(monkeypatch, capsys):
    """Run `mlclip-bench load`; gives the exit code and what was printed."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(load)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mlclip-bench", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


@pytest.mark.slow
def test_the_real_client_loads_a_real_server_and_goes_on_where_it_stopped(command, repository, images, tmp_path):
    out = tmp_path / "load"
    words = ["--repository", repository, "--images", images, "--slo-p99-ms", 0, "--out", out, *QUICK]
    code, said, _ = command(*words, "--concurrency", "2", "--rates", "none")
    assert code == 0 and "concurrency 2: " in said
    code, said, _ = command(*words, "--concurrency", "2", "--rates", "10", "--resume")
    assert code == 0 and "concurrency 2: " not in said and "10 images/s: " in said

    closed, opened = Results(out).lines()
    assert (closed["mode"], closed["level"], opened["mode"], opened["level"]) == ("closed", 2, "open", 10.0)
    for line in (closed, opened):
        answered = sum(window["answered"] for window in line["windows"])
        assert answered >= 9 and not any(window["errors"] for window in line["windows"])
        asked = [name.partition("/")[0] for name in line["models"] if name.partition("/")[0] in line["ensembles"]]
        assert asked == ["heads_mlclip-lite_bytes"], "two heads cost one encoder pass"
        assert line["models"]["encoder_mlclip-lite/1"]["success"] >= 0.9 * answered - 4
        assert line["models"]["encoder_mlclip-lite/1"]["infer_ns"] > 0
        assert line["resources"]["server_cores"] > 0
        assert line["resources"]["server_rss"] > 50 * 2**20, "tritonserver and its stubs"
        assert line["setting"]["questions"]["heads"] == ["plain", "sigmoid"]
        assert line["provenance"]["commit"]

    text = (out / "load.md").read_text()
    assert "`encoder_mlclip-lite`" in text
    names = {"load.jsonl", "load.md", "load.csv", "load.rates.csv", "load.models.csv", "load.png", "load.svg"}
    assert {path.name for path in out.iterdir()} == names

    for name in names - {"load.jsonl"}:
        (out / name).unlink()
    assert command("--derive", "--slo-p99-ms", 0, "--out", out)[0] == 0
    assert {path.name for path in out.iterdir()} == names
    assert (out / "load.md").read_text() == text

    code, _, error = command(*words)
    assert code == 1 and "holds a measurement: --resume continues it" in error, "asked before a server is started"


@pytest.fixture
def no_server(monkeypatch):
    """Stands where a server would; it has the head mld."""
    server = Target("somewhere", "127.0.0.1:1", None, None, ("mld",), {}, {})
    monkeypatch.setattr("mlclip_bench.load.cli._server", lambda *_: nullcontext(server))


def test_an_unknown_head_is_said_in_one_line(command, images, no_server, tmp_path):
    code, _, error = command("--images", images, "--heads", "mld,cats", "--out", tmp_path / "out")
    assert code == 1
    assert error == "error: the server has no head cats (it has: mld); see --heads\n"
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_decoded_are_left_out_and_said(
    command, images, no_server, tmp_path, monkeypatch, make_line, make_window
):
    def measure(load, setup, *, purpose, on_window):
        assert len(setup.images.files) == 5
        return make_line(load, [make_window([0.1] * 9)] * 3, purpose=purpose)

    monkeypatch.setattr("mlclip_bench.load.run.measure", measure)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    words = ["--images", images, "--images", broken, "--concurrency", "1", "--rates", "none", "--slo-p99-ms", 0]
    code, said, _ = command(*words, "--out", tmp_path / "out")
    assert code == 3 and "1 images cannot be decoded and were left out" in said


def test_stopping_by_hand_keeps_the_levels_and_writes_the_report(
    command, images, no_server, tmp_path, monkeypatch, make_line, make_window
):
    def measure(load, setup, *, purpose, on_window):
        if load == Closed(2):
            raise KeyboardInterrupt
        return make_line(load, [make_window([0.1] * 9)] * 3, purpose=purpose)

    monkeypatch.setattr("mlclip_bench.load.run.measure", measure)
    code, said, _ = command("--images", images, "--out", tmp_path)
    assert code == 130
    assert "--resume continues from there" in said
    assert [line["level"] for line in Results(tmp_path).lines()] == [1]
    assert "| 1 | 9.0 | 100 |" in (tmp_path / "load.md").read_text()


@pytest.fixture
def free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def one_line(error):
    return error.startswith("error: ") and error.count("\n") == 1


def test_no_server_is_said_in_one_line(command, images, free_port, tmp_path):
    url = f"127.0.0.1:{free_port}"
    code, _, error = command("--url", url, "--images", images, "--out", tmp_path / "out")
    assert code == 1 and one_line(error)
    assert f"no server answers at {url}" in error and "mlclip-serve" in error
    assert not (tmp_path / "out").exists()


def test_no_repository_is_said_in_one_line(command, images, tmp_path):
    code, _, error = command("--repository", tmp_path / "nowhere", "--images", images, "--out", tmp_path / "out")
    assert code == 1 and one_line(error) and "nowhere" in error


@pytest.mark.parametrize("kind", ["missing", "empty", "broken"])
def test_no_images_is_said_in_one_line_and_before_a_server_is_started(command, kind, tmp_path):
    folder = tmp_path / "pictures"
    if kind != "missing":
        folder.mkdir()
    if kind == "broken":
        (folder / "a.jpg").write_bytes(b"not a picture")
    code, _, error = command("--repository", tmp_path / "nowhere", "--images", folder, "--out", tmp_path / "out")
    assert code == 1 and one_line(error)
    assert str(folder) in error and "--images" in error and "nowhere" not in error


def test_nothing_to_derive_is_said_in_one_line(command, tmp_path):
    code, _, error = command("--derive", "--out", tmp_path)
    assert code == 1 and one_line(error) and "load.jsonl" in error


@pytest.mark.parametrize(
    "words",
    [
        ["--concurrency", "1,two"],
        ["--concurrency", "1.5"],
        ["--concurrency", "0"],
        ["--rates", "fast"],
        ["--rates", "-1"],
        ["--rates", "inf"],
        ["--repository", "x", "--url", "y:1"],
    ],
)
def test_wrong_words_are_wrong_usage(command, words, tmp_path):
    code, _, error = command(*words, "--out", tmp_path)
    assert code == 2 and "Usage" in error
