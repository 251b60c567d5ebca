"""A job on a Ray cluster of real nodes: the rows of the local engine, whatever dies."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .input_files import rows_of

pytestmark = pytest.mark.slow
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: ray[data]")


def events(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def written(log):
    return {event["shard"]: event["node"] for event in events(log) if event["event"] == "shard written"}


def told(log):
    """All events, without their time and node."""
    return [{name: value for name, value in event.items() if name not in ("time", "node")} for event in events(log)]


class Cluster:
    """The cluster of ray_cluster.py."""

    def __init__(self, process):
        self.process = process
        self.address = self._answer()

    def order(self, line):
        """Send `add`, `remove NODE` or `kill NODE`; gives the name of the node."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        answer = self.process.stdout.readline().strip()
        assert answer, "the cluster has gone"
        return answer


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray cluster; tests add the nodes that work."""
    log = tmp_path_factory.mktemp("cluster") / "log"
    script = Path(__file__).with_name("ray_cluster.py")
    with (
        log.open("w") as errors,
        pytest.MonkeyPatch.context() as patch,
        subprocess.Popen(
            [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # as in that file
        yield Cluster(process)


@pytest.fixture
def node(cluster):
    """A node of one test."""
    name = cluster.order("add")
    yield name
    cluster.order(f"remove {name}")


@needs_ray
def test_nodes_that_run_the_models_give_the_rows_of_this_machine(
    run, start, cluster, node, tiny, folder, job, tmp_path, assert_same_rows, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (folder / "05.jpg").write_bytes(b"no image")
    begin = ["classify", folder.relative_to(tmp_path), "--head", "grid", "--head", "color", "--embeddings"]
    begin += ["--shard-rows", 8, "--embedded", os.path.relpath(tiny.root), "--threads", 1]
    local = run(*begin, "--job", "local")
    assert local.exit_code == 3, local.stderr
    ray = ["--engine", "ray", "--ray-address", cluster.address, "--ray-workers", 2]
    other = cluster.order("add")
    code, _, stderr = start(*begin, "--job", "job", *ray, "--log", "log", "--out", "all.parquet").finish()
    cluster.order(f"remove {other}")
    assert code == 3 and "Traceback" not in stderr, stderr
    assert "40 inputs: 39 labelled, 1 with an error (1 decode)" in stderr
    assert "40 of 40 inputs have a row" in stderr
    nodes = written(tmp_path / "log")
    assert sorted(nodes) == list(range(5)) and set(nodes.values()) <= {node, other}
    found, wanted = rows_of(job / "labels"), rows_of(tmp_path / "local" / "labels")
    assert json.dumps(rows_of("all.parquet")) == json.dumps(found)
    for row, wanted_row in zip(found, wanted, strict=True):
        assert row.pop("embedding") == pytest.approx(wanted_row.pop("embedding"), abs=1e-6, nan_ok=True)
    assert_same_rows(found, wanted)


@needs_ray
def test_a_node_that_dies_in_the_middle_costs_no_row(
    run, start, cluster, server, gate, folder, job, tmp_path, assert_same_rows
):
    (folder / "20.png").write_bytes(gate.image)  # sorts after 00 to 19, in the third shard
    begin = ["classify", folder, "--head", "color", "--url", server.grpc_url, "--shard-rows", 8, "--timeout", 300]
    ray = ["--engine", "ray", "--ray-address", cluster.address]
    mortal = cluster.order("add")
    process = start(*begin, "--job", job, *ray, "--concurrency", 1, "--log", tmp_path / "log")
    gate.await_request()
    assert sorted(os.listdir(job / "labels")) == ["000000.parquet", "000001.parquet"]
    for engine in ([], ray):
        second = run("classify", "--job", job, "--url", server.grpc_url, *engine)
        assert "0 inputs: " in second.stderr and "the rest is with other workers" in second.stderr
    heir = cluster.order("add")
    cluster.order(f"kill {mortal}")
    gate.open()
    gate.await_request()
    gate.open()
    code, _, stderr = process.finish()
    cluster.order(f"remove {heir}")
    assert code == 3, stderr
    assert "41 inputs: 40 labelled, 1 with an error (1 decode)" in stderr
    nodes = written(tmp_path / "log")
    assert nodes == {0: mortal, 1: mortal, **dict.fromkeys(range(2, 6), heir)}
    os.write(gate.go_pipe, b"!")
    assert run(*begin, "--job", tmp_path / "local").exit_code == 3
    assert_same_rows(rows_of(job / "labels"), rows_of(tmp_path / "local" / "labels"))
    assert not [path for path in job.rglob(".*")]


@needs_ray
def test_only_errors_are_retried_on_nodes_with_the_rows_of_this_machine(
    run, start, cluster, node, tiny, folder, job, tmp_path, assert_same_rows
):
    images = {name: (folder / name).read_bytes() for name in ("03.jpg", "04.png", "sub/20.png")}
    for name in images:
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "away" / Path(name).name)
    (folder / "05.jpg").write_bytes(b"no image")
    here = ["--embedded", tiny.root, "--threads", 1]
    assert run("classify", folder, "--head", "color", "--job", job, "--shard-rows", 8, *here).exit_code == 3
    (tmp_path / "away").mkdir()
    for name in ("03.jpg", "sub/20.png"):
        (tmp_path / "away" / Path(name).name).write_bytes(images[name])
    before, local = rows_of(job / "labels"), tmp_path / "local"
    shutil.copytree(job, local)
    ray = ["--engine", "ray", "--ray-address", cluster.address]
    code, _, stderr = start("retry-failed", job, *here, *ray, "--log", tmp_path / "log").finish()
    result = run("retry-failed", local, *here, "--log", tmp_path / "local log")
    assert "3 inputs: 2 labelled, 1 with an error (1 read)" in stderr
    said = result.stderr.replace(str(local), str(job)).splitlines()[-1]
    assert (code, stderr.splitlines()[-1]) == (result.exit_code, said)
    after = rows_of(job / "labels")
    assert_same_rows(after, rows_of(local / "labels"))
    assert [row["error_kind"] for row in after if row["error_kind"]] == ["read", "decode"]
    kept = [number for number, row in enumerate(before) if row["error_kind"] != "read"]
    assert len(kept) == 37 and [after[number] for number in kept] == [before[number] for number in kept]
    assert written(tmp_path / "log") == {0: node, 2: node}
    assert told(tmp_path / "log") == told(tmp_path / "local log")


@needs_ray
def test_a_job_in_which_nothing_works_stops_with_one_line_and_can_go_on_here(
    run, start, cluster, node, tiny, job, tmp_path
):
    (tmp_path / "list.txt").write_text("".join(f"gone/{number}.png\n" for number in range(20)))
    begin = ["classify", tmp_path / "list.txt", "--head", "color", "--job", job, "--embedded", tiny.root]
    ray = ["--shard-rows", 8, "--engine", "ray", "--ray-address", cluster.address, "--max-failures", 10]
    code, _, stderr = start(*begin, *ray).finish()
    assert code == 1 and "Traceback" not in stderr, stderr
    assert stderr.splitlines()[-1].startswith("error: stopped after 10 errors in a row, the last one read: ")
    assert len(rows_of(job / "labels")) == 8
    assert run("classify", "--job", job, "--embedded", tiny.root, "--max-failures", 0).exit_code == 3
    assert [row["path"] for row in rows_of(job / "labels")] == [f"{tmp_path}/gone/{number}.png" for number in range(20)]


def test_missing_options_and_packages_are_named_before_any_work(run, folder, tiny, job, monkeypatch):
    begin = ["classify", folder, "--head", "color", "--embedded", tiny.root]
    result = run(*begin, "--engine", "ray")
    assert (result.exit_code, result.stderr) == (2, "error: --engine: only with --job DIR, a job\n")
    result = run(*begin, "--job", job, "--ray-workers", 2)
    refused = (2, "error: --ray-address and --ray-workers go with --engine ray\n")
    assert (result.exit_code, result.stderr) == refused
    result = run("retry-failed", job, "--ray-workers", 2)
    assert (result.exit_code, result.stderr) == refused
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run(*begin, "--job", job, "--engine", "ray")
    missing = "error: --engine ray needs Ray: pip install 'mlclip-client[ray]'\n"
    assert (result.exit_code, result.stderr) == (1, missing)


@needs_ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray")
def test_an_address_without_a_cluster_is_named_at_once(run, folder, tiny, job):
    begin = ["classify", folder, "--head", "color", "--embedded", tiny.root, "--job", job]
    result = run(*begin, "--engine", "ray", "--ray-address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: no Ray cluster answers at 127.0.0.1:1: ")
