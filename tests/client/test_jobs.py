"""Jobs: killed, shared, resumed, retried; always one row per input."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlclip_client.errors import DownloadFailed
from mlclip_client.inputs.item import Cell, Item
from mlclip_client.jobs.claims import Claims
from mlclip_client.jobs.plan import Plan, write_plan
from mlclip_client.output.rows import read_classes
from mlclip_client.wording import printable

from .input_files import rows_of


@pytest.fixture
def begin(server, folder, job):
    """Arguments that begin a job of shards of 8, one request at a time."""
    return ["classify", folder, "--head", "color", "--job", job, "--url", server.grpc_url, "--shard-rows", 8]


def test_a_job_gives_the_rows_of_a_stream_in_shards_and_in_one_file(
    run, begin, folder, job, server, tmp_path, assert_same_rows
):
    result = run(*begin, "--out", tmp_path / "merged.parquet")
    assert result.exit_code == 0, result.stderr
    assert f"{job}: 40 of 40 inputs have a row; written to {tmp_path / 'merged.parquet'}" in result.stderr
    run("classify", folder, "--head", "color", "--out", tmp_path / "stream.parquet", "--url", server.grpc_url)
    assert [pq.read_metadata(file).num_rows for file in sorted((job / "labels").iterdir())] == [8] * 5
    assert not list(job.rglob(".*")), "no temporary file is left"
    assert rows_of(tmp_path / "merged.parquet") == rows_of(job / "labels")
    files = [tmp_path / "merged.parquet", tmp_path / "stream.parquet", *(job / "labels").iterdir()]
    assert [list(read_classes(pq.read_schema(file))) for file in files] == [["color"]] * 7
    assert_same_rows(rows_of(job / "labels"), rows_of(tmp_path / "stream.parquet"))


def test_a_job_as_json_lines_has_null_where_there_is_no_embedding(run, begin, folder, job, tmp_path):
    (folder / "03.jpg").write_bytes(b"no image")
    assert run(*begin, "--embeddings", "--out", tmp_path / "all.jsonl").exit_code == 3
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["embedding"] is None for row in found] == [number == 3 for number in range(40)]


def test_a_job_as_json_lines_has_the_shortest_numbers_that_give_each_float32_back(run, begin, job, tmp_path):
    run(*begin, "--scores", "--embeddings", "--out", tmp_path / "all.jsonl")
    found, digits = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()], []
    json.loads(json.dumps(found), parse_float=digits.append)
    assert len(digits) > 40 * 9 and digits == [str(np.float32(number)) for number in digits]
    for row, wanted in zip(found, rows_of(job / "labels"), strict=True):
        for name in ("scores", "top_scores", "all_scores"):
            numbers, exact = (np.float32(each["answers"]["color"][name]) for each in (row, wanted))
            assert numbers.tolist() == exact.tolist()
        assert np.float32(row["embedding"]).tolist() == wanted["embedding"]
        assert np.float32(row["seconds"]) == wanted["seconds"]


@pytest.mark.slow
def test_a_killed_job_goes_on_and_ends_as_if_nothing_had_happened(start, begin, gate, folder, job, server, tmp_path):
    (folder / "sub/22_more.png").write_bytes(gate.image)  # the 24th: read when two shards of 8 are written
    first = start(*begin, "--concurrency", 1)
    gate.await_request()
    first.kill()
    first.finish()
    gate.open()
    assert sorted(os.listdir(job / "labels")) == ["000000.parquet", "000001.parquet"]
    done = rows_of(job / "labels")
    again = start("classify", "--job", job, "--url", server.grpc_url, "--out", tmp_path / "all.parquet")
    gate.await_request()
    gate.open()
    code, _, stderr = again.finish()
    assert code == 3, stderr
    assert "25 inputs: 24 labelled, 1 with an error (1 decode)" in stderr, "finished shards are not labelled again"
    found = rows_of(tmp_path / "all.parquet")
    assert found[:16] == done
    assert [row["path"] for row in found] == sorted(str(path) for path in folder.rglob("*.*"))
    assert [row["error_kind"] for row in found] == [None] * 23 + ["decode"] + [None] * 17


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_costs_no_row(
    start, tiny, serve, mortal_server, gate, folder, job, tmp_path
):
    (folder / "20.png").write_bytes(gate.image)
    port = int(mortal_server.grpc_url.rpartition(":")[2])
    arguments = ["classify", folder, "--head", "color", "--job", job, "--url", mortal_server.grpc_url]
    process = start(*arguments, "--concurrency", 2, "--retry-seconds", 300, "--timeout", 300, "--log", tmp_path / "log")
    gate.await_request()
    os.killpg(mortal_server.pid, signal.SIGKILL)
    mortal_server.process.wait()  # and releases its port
    for _ in range(2):  # before the start, which asks the models, too; the model that dies may still read it once
        gate.open()
    serve(tiny.root, port)
    code, _, stderr = process.finish()
    gate.await_request()
    assert code == 3, stderr
    assert [row["error_kind"] for row in rows_of(job / "labels")] == [None] * 20 + ["decode"] + [None] * 20
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    told = {event["event"] for event in events}
    assert told == {"started", "planned", "endpoint away", "endpoint back", "input failed", "shard written", "ended"}
    assert (events[0]["event"], events[0]["heads"]) == ("started", {"color": "1"})
    assert (events[-1]["event"], events[-1]["exit_code"], events[-1]["errors"]) == ("ended", 3, {"decode": 1})


@pytest.mark.slow
def test_without_retry_seconds_a_job_stops_when_the_server_dies_and_nothing_is_lost(
    run, start, mortal_server, server, gate, folder, job, tmp_path
):
    (folder / "20.png").write_bytes(gate.image)
    arguments = ["classify", folder, "--head", "color", "--job", job, "--shard-rows", 8, "--concurrency", 1]
    process = start(*arguments, "--url", mortal_server.grpc_url, "--retry-seconds", 0, "--timeout", 300)
    gate.await_request()
    os.killpg(mortal_server.pid, signal.SIGKILL)
    code, _, stderr = process.finish()
    assert code == 1
    assert "error: no server answers at" in stderr and "repeat the same command to go on" in stderr
    assert run("status", job).stdout.startswith("16 of 41 inputs have a row; 2 of 6 shards\n")
    (folder / "20.png").write_bytes(b"no image")
    assert run("classify", "--job", job, "--url", server.grpc_url).exit_code == 3
    assert len(rows_of(job / "labels")) == 41


def test_two_workers_share_a_job_and_no_shard_is_done_twice(run, start, begin, gate, folder, job, server, tmp_path):
    (folder / "00.png").write_bytes(gate.image)
    first = start(*begin, "--concurrency", 1)
    gate.await_request()  # the first worker has claimed the first shards
    log = tmp_path / "log"
    second = run("classify", "--job", job, "--url", server.grpc_url, "--log", log, "--via", "pixels")  # past the gate
    written = [json.loads(line) for line in log.read_text().splitlines()]
    theirs = {line["shard"] for line in written if line["event"] == "shard written"}
    assert theirs and 0 not in theirs
    assert "the rest is with other workers" in second.stderr
    third = run("classify", "--job", job, "--out", tmp_path / "all.parquet")
    assert third.exit_code == 1
    assert f"error: {tmp_path / 'all.parquet'} is not written before every input has a row" in third.stderr
    gate.open()
    code, _, stderr = first.finish()
    assert code == 3, stderr
    assert f"{40 - 8 * len(theirs)} inputs: " in stderr
    assert [row["path"] for row in rows_of(job / "labels")] == sorted(str(path) for path in folder.rglob("*.*"))


def test_only_errors_are_retried_and_their_rows_replaced(run, begin, folder, job, server):
    wanted = (folder / "03.jpg").read_bytes()
    (folder / "03.jpg").unlink()
    (folder / "03.jpg").symlink_to(folder / "not there yet")
    (folder / "05.jpg").write_bytes(b"no image")
    assert run(*begin).exit_code == 3
    before = rows_of(job / "labels")
    assert [before[3]["error_kind"], before[5]["error_kind"]] == ["read", "decode"]
    (folder / "not there yet").write_bytes(wanted)
    others = {file.name: file.stat().st_mtime_ns for file in (job / "labels").iterdir()}
    result = run("retry-failed", job, "--url", server.grpc_url)
    assert result.exit_code == 3
    assert "1 input: 1 labelled" in result.stderr
    assert "40 of 40 inputs have a row, 1 of them an error (1 decode)" in result.stderr
    after = rows_of(job / "labels")
    assert after[3]["error_kind"] is None and after[3]["answers"]["color"]["top_labels"]
    assert after[:3] + after[4:] == before[:3] + before[4:]
    changed = {file.name for file in (job / "labels").iterdir() if file.stat().st_mtime_ns != others[file.name]}
    assert changed == {"000000.parquet"}


def test_a_job_begun_with_relative_names_goes_on_from_any_folder(run, folder, server, tmp_path, monkeypatch):
    wanted = (folder / "03.jpg").read_bytes()
    (folder / "03.jpg").unlink()
    (folder / "03.jpg").symlink_to("03.late")
    monkeypatch.chdir(folder)
    again = ["--job", tmp_path / "job", "--url", server.grpc_url]
    assert run("classify", "sub/../.", "--head", "color", "--shard-rows", 8, *again).exit_code == 3
    (tmp_path / "job" / "labels" / "000004.parquet").unlink()
    (folder / "03.late").write_bytes(wanted)
    monkeypatch.chdir("/")
    run("classify", *again)
    assert run("retry-failed", tmp_path / "job", "--url", server.grpc_url).exit_code == 0
    found = rows_of(tmp_path / "job" / "labels")
    assert len(found) == 40 and {row["error_kind"] for row in found} == {None}
    assert found[3]["path"] == "sub/../03.jpg"


def test_a_job_goes_on_with_the_options_it_was_begun_with(run, begin, folder, job, tmp_path, monkeypatch):
    wanted, out = (folder / "03.jpg").read_bytes(), tmp_path / "all.jsonl"
    (folder / "03.jpg").write_bytes(wanted + bytes(5000))
    monkeypatch.chdir(tmp_path)
    options = ["--embeddings", "--via", "pixels", "--max-bytes", 5000, "--concurrency", 1, "--out", out.name]
    assert run(*begin, *options).exit_code == 3
    monkeypatch.chdir("/")
    out.unlink()
    (job / "labels" / "000004.parquet").unlink()
    unfinished = run("retry-failed", job)
    assert unfinished.exit_code == 3 and not out.exists()
    assert f"the others have no row yet: classify --job {job} goes on with them" in unfinished.stderr
    assert run("classify", "--job", job).exit_code == 3
    assert len(out.read_text().splitlines()) == 40
    assert run("retry-failed", job, "--kind", "too large").exit_code == 3
    assert run("retry-failed", job, "--kind", "too large", "--max-bytes", 10000).exit_code == 0
    assert [json.loads(line)["error"] for line in out.read_text().splitlines()] == [None] * 40
    refused = run("classify", "--job", job, "--out", folder / "03.jpg")
    assert refused.exit_code == 2 and (folder / "03.jpg").read_bytes()[: len(wanted)] == wanted
    found = rows_of(job / "labels")
    assert [row["error_kind"] for row in found] == [None] * 40
    assert np.isfinite([row["embedding"] for row in found]).all()
    remembered = json.loads((job / "job.json").read_text())["options"]
    assert {name: remembered[name] for name in ("via", "max_bytes", "concurrency", "proxy", "null")} == {
        "via": "pixels", "max_bytes": 5000, "concurrency": 1, "proxy": None, "null": False,
    }  # fmt: skip


def test_a_job_does_not_remember_a_password(run, folder, job, server):
    begin = ["classify", folder, "--head", "color", "--job", job, "--url", server.grpc_url]
    assert run(*begin, "--proxy", "http://me:secret@127.0.0.1:9").exit_code == 0
    assert "secret" not in (job / "job.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "x", "--shard-rows", 5], "--shard-rows: only with --job DIR, a job"),
        (["classify", "x", "--engine", "ray"], "--engine: only with --job DIR"),
        (["classify", "x", "--embedded", "r", "--url", "h:1"], "--url: with --embedded no server is asked"),
        (
            ["classify", "x", "--proxy", "h:1"],
            "proxy h:1: write http://host:port, https://host:port or socks5h://host:port",
        ),
        (["classify", "x", "--threads", 2], "--threads: only with --embedded or --engine ray; a server has its own"),
        (
            ["retry-failed", "x", "--kind", "dowload"],
            "--kind dowload: errors are of the kinds busy, deadline, decode, ",
        ),
    ],
)
def test_options_that_would_be_ignored_are_wrong_usage(run, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = run(*arguments)
    assert refused.exit_code == 2 and refused.stderr.startswith(f"error: {message}"), refused.stderr
    assert not list(tmp_path.iterdir())


def test_a_job_refuses_another_model_and_another_request(run, begin, folder, job, server, monkeypatch):
    here = os.getcwd()
    assert run(*begin).exit_code == 0
    other = run("classify", folder / "sub", "--head", "color", "--job", job, "--url", server.grpc_url)
    assert other.exit_code == 2
    assert 'holds a job with inputs ["' in other.stderr and "begin a new job in another folder" in other.stderr
    for options in (["--scores"], ["--max-bytes", 10], ["--shard-rows", 1], ["--null"]):
        other = run("classify", "--job", job, *options)
        assert other.exit_code == 2 and f"error: {job} holds a job with " in other.stderr, other.stderr
    other = run("classify", "--job", job, "--head", "grid")
    assert f'{job} holds a job with heads ["color"], now ["grid"] was asked' in other.stderr
    monkeypatch.chdir("/")
    assert f"was begun in {here}, where" in run(*begin).stderr
    (job / "labels" / "000001.parquet").unlink()
    text = (job / "job.json").read_text()
    (job / "job.json").write_text(text.replace('"version": "1"', '"version": "7"'))
    for again in (["classify", "--job", job], ["retry-failed", job]):
        refused = run(*again, "--url", server.grpc_url)
        assert refused.exit_code == 1
        assert "head color has version 1 now, and this job was begun with 7" in refused.stderr
    assert not (job / "labels" / "000001.parquet").exists()


def test_a_job_in_which_nothing_works_stops_with_its_last_error_and_can_go_on(run, tmp_path, job, server):
    (tmp_path / "list.txt").write_text("".join(f"gone/{number}.png\n" for number in range(50)))
    begin = ["classify", tmp_path / "list.txt", "--head", "color", "--job", job, "--url", server.grpc_url]
    result = run(*begin, "--shard-rows", 8, "--max-failures", 20)
    assert result.exit_code == 1
    assert "stopped after 20 errors in a row, the last one read: " in result.stderr
    assert len(rows_of(job / "labels")) == 16
    assert run("classify", "--job", job, "--url", server.grpc_url, "--max-failures", 0).exit_code == 3
    found = rows_of(job / "labels")
    assert [row["path"] for row in found] == [f"{tmp_path}/gone/{number}.png" for number in range(50)]
    assert {row["error_kind"] for row in found} == {"read"}


def test_the_same_bytes_are_asked_for_once_even_by_the_next_worker(run, begin, folder, job, server):
    for number in range(10, 20):
        path = folder / f"{number:02}.{('png', 'jpg')[number % 2]}"
        path.write_bytes((folder / "00.png").read_bytes())
    result = run(*begin, "--concurrency", 1)
    assert "10 took the answer of the same bytes" in result.stderr
    (job / "labels" / "000004.parquet").unlink()
    assert "8 took the answer of the same bytes" in run("classify", "--job", job, "--url", server.grpc_url).stderr
    found = rows_of(job / "labels")
    assert {json.dumps(row["answers"]) for row in found[10:20]} == {json.dumps(found[0]["answers"])}
    assert len({row["sha256"] for row in found}) == 30


def test_status_is_text_or_json(run, begin, job):
    for command in ("status", "retry-failed"):
        missing = run(command, job)
        no_job = f"error: {job} holds no job: classify PATHS --job {job} begins one\n"
        assert (missing.exit_code, missing.stderr, job.exists()) == (2, no_job, False)
    run(*begin)
    text = run("status", job).stdout
    assert text.startswith("40 of 40 inputs have a row; 5 of 5 shards\nhead color, version 1, labels ")
    found = json.loads(run("status", job, "--json").stdout)
    assert (found["inputs"], found["rows"], found["errors"], found["shards"], found["done"]) == (40, 40, {}, 5, 5)


def test_a_folder_that_is_no_job_is_left_alone(run, begin, job):
    job.mkdir()
    (job / "letters.txt").write_text("dear")
    result = run(*begin)
    refused = f"error: {job} holds something that is no job; name another folder\n"
    assert (result.exit_code, result.stderr) == (2, refused)
    assert os.listdir(job) == ["letters.txt"]


def test_a_plan_keeps_every_name_and_error(tmp_path):
    names = ["a b", "line\nbreak", os.fsdecode(b"caf\xe9"), "\ud800", "-x", "ü.png"]
    items = [Item(name, "file", f"/{name}", size=number, text=name) for number, name in enumerate(names)]
    items[1] = replace(items[1], kind="cell", cell=Cell(names[2], 7))
    known = Item("/list.csv:3", place="/list.csv:3", error=DownloadFailed("no address"))
    counted = []
    assert write_plan([*items, known], tmp_path / "plan", 4, counted.append) == 7
    plan = Plan(tmp_path / "plan")
    assert (plan.shards, plan.count, counted, plan.rows(1)) == (2, 7, [4, 7], 3)
    *others, last = [*plan.items(0), *plan.items(1)]
    plan.close()
    assert others == items
    for item in (last, pickle.loads(pickle.dumps(known))):
        assert (type(item.error), str(item.error)) == (DownloadFailed, "no address")
        assert replace(item, error=known.error) == known
    assert printable(names[2]) == "caf\\xe9" and printable("\ud800") == "\\ud800"


def test_a_claim_ends_with_its_process(tmp_path):
    code = (
        "import sys, pathlib; from mlclip_client.jobs.claims import Claims;"
        "claims = Claims(pathlib.Path(sys.argv[1])); print(claims.take(3), claims.take(5), flush=True); input()"
    )
    file = tmp_path / "claims"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "True True\n"
        claims = Claims(file)
        assert [claims.take(shard) for shard in (2, 3, 4, 5)] == [True, False, True, False]
        holder.kill()
    assert claims.take(3) and claims.take(5)
    claims.close()
