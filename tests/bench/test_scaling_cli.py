"""Whole runs of `mlclip-bench` on a small encoder: what is left on disk, stopped, resumed, refused."""

import json
import os
import signal
from collections import Counter
from types import SimpleNamespace

import pytest
from mlclip_bench.cli import app
from mlclip_bench.scaling.build import estimate, shapes_of
from mlclip_bench.scaling.cases import Case
from mlclip_bench.scaling.graphs import write_graph
from mlclip_bench.scaling.results import Results
from mlclip_bench.scaling.rounds import Point
from mlclip_bench.scaling.sources import Pool
from typer.testing import CliRunner

from mlclip.errors import ResultsError

FILES = {"results.jsonl", "scaling.json", "scaling.png", "scaling.svg", "report.md"}
POINTS = {
    (case, batch)
    for case in ("encoder", "sigmoid-n4", "sigmoid-n8", "mld-n4-k2", "mld-n8-k2", "mld-n4-k4", "mld-n8-k8")
    for batch in (1, 3)
}


@pytest.fixture
def bench(encoder_folder, tmp_path):
    def run(*more, out="run"):
        words = ["--classes", "4,8", "--heads", "sigmoid,mld", "--groups", "2,full", "--batch", "1,3", "--minutes", "0"]
        words += ["--encoder", encoder_folder, "--out", tmp_path / out, *more]
        return CliRunner().invoke(app, [str(word) for word in words])

    run.folder = tmp_path / "run"
    return run


def rounds(folder):
    return Counter((line["case"], line["batch"]) for line in Results(folder).of("round"))


def test_a_run_leaves_raw_lines_figures_a_picture_and_a_report(bench):
    done = bench()
    assert done.exit_code == 0, done.output
    assert {path.name for path in bench.folder.iterdir()} == FILES, "graphs are gone"
    assert rounds(bench.folder) == dict.fromkeys(POINTS, 3)
    graphs = Results(bench.folder).of("graph")
    assert {line["case"] for line in graphs} == {case for case, _ in POINTS}
    for line in graphs:
        assert {"parameters", "flops", "file_bytes", "export_seconds", "load_seconds", "difference"} <= line.keys()
        assert set(line["peak_bytes"]) == {"1", "3"}
    figures = json.loads((bench.folder / "scaling.json").read_text())
    mld = next(one for one in figures["series"] if one["title"] == "mld, K = 2")
    assert mld["growth"]["3"]["ratios"].keys() == {"8/4"}
    assert all(point["end_to_end_ms"]["value"] > point["latency_ms"]["value"] for point in mld["points"])
    report = (bench.folder / "report.md").read_text()
    assert "mld, K = N" in report and "Stopped" not in report

    before = (bench.folder / "results.jsonl").read_bytes()
    (bench.folder / "report.md").unlink()
    assert bench("--derive").exit_code == 0
    assert (bench.folder / "report.md").read_text() == report
    assert (bench.folder / "results.jsonl").read_bytes() == before, "nothing was measured"

    assert "--resume continues it" in str(bench().exception)
    other = bench("--resume", "--batch", "1,2")
    assert "another batches" in str(other.exception)


@pytest.mark.slow
def test_a_stopped_run_reports_what_it_has_and_goes_on(bench, monkeypatch):
    calls, measure = [], Pool.measure

    def stop(pool, point, seconds):
        calls.append(point)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return measure(pool, point, seconds)

    monkeypatch.setattr(Pool, "measure", stop)
    stopped = bench()
    assert stopped.exit_code == 130 and "--resume" in stopped.output
    assert sum(rounds(bench.folder).values()) == 19
    assert "Stopped before its end" in (bench.folder / "report.md").read_text()
    monkeypatch.setattr(Pool, "measure", measure)
    with (bench.folder / "results.jsonl").open("a") as file:
        file.write('{"kind": "round", "case": "sigm')  # as a killed process leaves it
    assert bench("--resume").exit_code == 0
    assert rounds(bench.folder) == dict.fromkeys(POINTS, 3)
    assert len(Results(bench.folder).of("graph")) == len({case for case, _ in POINTS}), "no graph was exported twice"


def test_what_does_not_fit_into_memory_is_left_out_with_its_estimate(bench, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=60_000))
    done = bench("--heads", "sigmoid")
    assert done.exit_code == 0, done.output
    left = Results(bench.folder).of("left")
    assert {line["title"] for line in left} == {"encoder"}
    assert all("GiB beside the others" in line["why"] for line in left)
    assert set(rounds(bench.folder)) == {("sigmoid-n4", 1), ("sigmoid-n4", 3), ("sigmoid-n8", 1), ("sigmoid-n8", 3)}
    assert "## Not measured" in (bench.folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "46;80"], "--classes: takes whole numbers"),
        (["--batch", "0"], "--batch: takes whole numbers"),
        (["--groups", "all"], "--groups: takes whole numbers"),
        (["--heads", "sigmoid,mdl"], "--heads: unknown head 'mdl'"),
        (["--through", "http"], "--through: takes ort or triton"),
        (["peers", "--only", "nobody"], "--only: no peer is called nobody"),
    ],
)
def test_wrong_words_are_wrong_usage(bench, words, message):
    refused = bench(*words)
    assert refused.exit_code == 2
    assert f"Invalid value for {message}" in " ".join(refused.output.replace("│", " ").split())
    assert not bench.folder.exists()


def test_nothing_to_derive_is_told_in_one_line(bench):
    refused = bench("--derive")
    assert isinstance(refused.exception, ResultsError)
    assert "holds no run: measure first" in str(refused.exception) and "\n" not in str(refused.exception)
    assert not bench.folder.exists()


def test_a_broken_graph_is_told(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with Pool(threads=1) as pool, pytest.raises(ResultsError, match="the process of broken: InvalidProtobuf"):
        pool.load("broken", tmp_path / "model.onnx")


def test_a_worker_that_was_killed_is_told(encoder, tmp_path):
    case, shapes = Case("sigmoid", 4), shapes_of(encoder)
    write_graph(case, estimate(case, shapes, encoder), shapes, encoder, tmp_path)
    with Pool(threads=1) as pool:
        pool.load(case.key, tmp_path / case.key / "model.onnx")
        assert len(pool.measure(Point(case.key, 2), 0)) == 1
        os.kill(pool.workers[case.key].pid, signal.SIGKILL)
        with pytest.raises(ResultsError, match="the process of sigmoid-n4: ended with signal 9, perhaps out of memory"):
            pool.measure(Point(case.key, 2), 0)


@pytest.mark.slow
def test_the_same_points_are_asked_of_a_real_server(bench):
    done = bench("--through", "triton", "--heads", "sigmoid,self-attention", "--batch", "3", "--threads", "2")
    assert done.exit_code == 0, (done.output, done.exception)
    cases = {"sigmoid-n4", "sigmoid-n8", "self-attention-n4", "self-attention-n8"}
    asked = {"encoder", *cases, *(f"encoder+{case}" for case in cases)}
    assert rounds(bench.folder) == dict.fromkeys([(case, 3) for case in asked], 3)
    figures = json.loads((bench.folder / "scaling.json").read_text())
    points = [point for one in figures["series"] for point in one["points"]]
    assert len(points) == 4 and all(point["end_to_end_ms"] for point in points)
    facts = ("peak_bytes", "file_bytes", "export_seconds", "load_seconds", "parameters", "flops")
    assert all(point[fact] > 0 for point in [*points, figures["encoder"]["3"]] for fact in facts)
    assert all(point["difference"] < 1e-4 for point in points)
    report = (bench.folder / "report.md").read_text()
    assert "one request to the ensemble" in report
    assert "through triton, 2 threads" in report
