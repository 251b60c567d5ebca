"""The command line, as scripts see it: rows, lines, exit codes."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlclip_client.bulk.request import Summary
from mlclip_client.cli.ending import conclude
from mlclip_client.output.tally import Tally
from mlclip_client.pixels import PixelSpec
from mlclip_client.values import HeadInfo

NOWHERE = "127.0.0.1:1"


def json_rows(text):
    return [json.loads(line) for line in text.splitlines()]


def test_folder_becomes_parquet(start, server, tiny, folder, files, tmp_path):
    out = tmp_path / "labels.parquet"
    code, stdout, stderr = start(
        "classify", folder, "--head", "grid", "--head", "color", "--out", out, "--url", server.grpc_url, "--scores"
    ).finish()
    assert (code, stdout) == (0, ""), stderr
    assert stderr == f"40 inputs: 40 labelled; written to {out}\n"
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == sorted(str(path) for path in folder.rglob("*.*"))
    for row, data in zip(rows, files, strict=True):
        for head in ("grid", "color"):
            answer, scores = row["answers"][head], tiny.scores(data, head)
            assert answer["all_scores"] == pytest.approx(scores.tolist(), abs=1e-5)
            best = sorted(range(len(scores)), key=lambda index: -answer["all_scores"][index])
            assert answer["top_labels"] == [tiny.labels[head][index] for index in best[:5]]
            chosen = [index for index in best if answer["all_scores"][index] >= tiny.weights[head].thresholds[index]]
            assert answer["labels"] == [tiny.labels[head][index] for index in chosen]
            assert answer["scores"] == [answer["all_scores"][index] for index in chosen]
            assert (answer["model"], answer["version"]) == ("heads_tiny_bytes", "1")


@pytest.mark.parametrize("via", ["bytes", "pixels"])
def test_broken_image_gets_a_row_and_exit_code_3(run, server, folder, tmp_path, via):
    (folder / "03.jpg").write_bytes(b"no image")
    (folder / "05.jpg").write_bytes(b"")
    (folder / "07.jpg").write_bytes(bytes(5000))
    (folder / "notes.txt").write_text("not asked")
    out = tmp_path / "labels.jsonl"
    result = run(
        *("classify", folder, "--head", "color", "--out", out, "--url", server.grpc_url),
        *("--via", via, "--max-bytes", 4999),
    )
    assert result.exit_code == 3, result.output
    assert "40 inputs: 37 labelled, 3 with an error (2 decode, 1 too large); 1 other file left alone;" in result.stderr
    rows = json_rows(out.read_text())
    assert len(rows) == 40
    errors = {os.path.basename(row["path"]): (row["error_kind"], row["error"]) for row in rows if row["error"]}
    assert errors == {
        "03.jpg": ("decode", "not an image in a format that Pillow reads"),
        "05.jpg": ("decode", "the file is empty"),
        "07.jpg": ("too large", "5,000 bytes are over the limit of 4,999"),
    }
    assert all((row["answers"] is None) == (row["error"] is not None) for row in rows)


@pytest.mark.parametrize("job", [[], ["--job", "job"]], ids=["stream", "job"])
def test_known_files_are_marked_and_no_server_is_asked_about_them(run, server, folder, tmp_path, job, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = [folder / "03.jpg", folder / "sub" / "20.png"]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest().upper()}  {path}" for path in known]
    (tmp_path / "known.txt").write_text("# seen before\n\n" + "\n".join(lines))
    asked = ["classify", folder, "--head", "color", "--out", "all.jsonl", "--url", server.grpc_url, *job]
    result = run(*asked, "--known", "known.txt")
    assert result.exit_code == 0, result.output
    assert "40 inputs: 38 labelled, 2 known;" in result.stderr
    rows = {row["path"]: row for row in json_rows((tmp_path / "all.jsonl").read_text())}
    marked = {path: row for path, row in rows.items() if row["error_kind"] == "known"}
    assert marked.keys() == {str(path) for path in known} and all(row["answers"] is None for row in marked.values())
    assert {row["sha256"] for row in marked.values()} == {line.split()[0].lower() for line in lines}
    (tmp_path / "known.txt").write_text("d41d8cd98f00b204e9800998ecf8427e\n")
    assert run(*asked[: -len(job) or None], "--known", "known.txt").exit_code == 2
    assert "line 1: no SHA-256 hash" in run(*asked[: -len(job) or None], "--known", "known.txt").stderr


@pytest.mark.parametrize("job", [[], ["--job", "job"]], ids=["stream", "job"])
def test_a_log_names_the_inputs_that_failed(run, server, folder, tmp_path, monkeypatch, job):
    monkeypatch.chdir(tmp_path)
    (folder / "03.jpg").write_bytes(b"no image")
    (folder / "05.jpg").write_bytes(b"")
    asked = ["classify", "images", "--head", "color", "--url", server.grpc_url, "--out", "all.jsonl", *job]
    assert run(*asked, "--log", "log").exit_code == 3
    told = [event for event in json_rows((tmp_path / "log").read_text()) if event["event"] == "input failed"]
    assert [(event["path"], event["kind"], event["error"]) for event in told] == [
        ("images/03.jpg", "decode", "not an image in a format that Pillow reads"),
        ("images/05.jpg", "decode", "the file is empty"),
    ]


def test_dash_writes_rows_alone_to_stdout(start, server, folder):
    code, stdout, stderr = start(
        *("classify", folder / "sub", folder / "01.jpg", "--head", "color", "--out", "-"),
        *("--url", server.grpc_url, "--top-k", "2", "--concurrency", "3"),
    ).finish()
    rows = json_rows(stdout)
    assert (code, len(rows)) == (0, 21)
    assert stderr == "21 inputs: 21 labelled\n"
    assert rows[-1]["path"] == str(folder / "01.jpg")
    assert len(rows[0]["answers"]["color"]["top_labels"]) == 2


@pytest.mark.parametrize(("end", "options"), [("\n", []), ("\0", ["--null"])])
def test_a_line_on_stdin_gives_its_row_before_the_next_line_comes(start, server, folder, end, options):
    asked = ["classify", "-", "--head", "color", "--out", "-", "--url", server.grpc_url, *options]
    process = start(*asked, stdin=subprocess.PIPE)
    for name in ("00.png", "01.jpg", "02.png"):
        process.stdin.write(f"{folder / name}{end}")
        process.stdin.flush()
        row = json.loads(process.stdout.readline())
        assert row["path"] == str(folder / name) and row["answers"]["color"]["top_labels"]
    process.stdin.write(str(folder / "03.jpg"))
    code, last, stderr = process.finish()
    assert (code, json.loads(last)["path"], stderr) == (0, str(folder / "03.jpg"), "4 inputs: 4 labelled\n")


def test_a_manifest_of_paths_texts_and_bytes_and_a_tar_in_one_run(run, server, folder, files, tmp_path):
    pq.write_table(pa.table({"image": files[:3], "text": ["a", None, "c"]}), tmp_path / "cells.parquet")
    (tmp_path / "paths.csv").write_text(f"path,text\n{folder / '03.jpg'},four\nimages/04.png,\n")
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        tar.add(folder / "05.jpg", "deep/05.jpg")
    names = ("cells.parquet", "paths.csv", "more.tar")
    out = tmp_path / "labels.jsonl"
    found = run(
        "classify", *(tmp_path / name for name in names), "--head", "color", "--out", out, "--url", server.grpc_url
    )
    assert found.exit_code == 0, found.stderr
    rows = json_rows(out.read_text())
    assert [row["sha256"] for row in rows] == [hashlib.sha256(data).hexdigest() for data in files[:6]]
    assert rows[-1]["path"] == f"{tmp_path / 'more.tar'}/deep/05.jpg"


def test_embeddings_are_written_for_images_with_answers(run, server, folder, tmp_path):
    (folder / "00.png").write_bytes(b"no image")
    out = tmp_path / "labels.parquet"
    result = run("classify", folder, "--head", "color", "--out", out, "--url", server.grpc_url, "--embeddings")
    assert result.exit_code == 3
    embeddings = pq.read_table(out)["embedding"].to_pylist()
    assert np.isnan(embeddings[0]).tolist() == [True] * 3
    assert np.linalg.norm(embeddings[1:], axis=1).min() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels.parquet", "labels.jsonl"])
def test_server_killed_in_the_middle_keeps_the_rows_so_far(start, mortal_server, gate, folder, tmp_path, name):
    (folder / "20.png").write_bytes(gate.image)  # sorts after 00 to 19, before `sub`
    out = tmp_path / name
    process = start(
        *("classify", folder, "--head", "color", "--out", out, "--url", mortal_server.grpc_url),
        *("--concurrency", "1", "--timeout", "300", "--retry-seconds", "0"),
    )
    gate.await_request()
    assert not out.exists(), "the file appears when it is complete"
    os.kill(mortal_server.pid, signal.SIGKILL)
    code, _, stderr = process.finish()
    assert code == 1
    assert "41 inputs: 20 labelled, 21 with an error (21 unavailable)" in stderr
    assert "error: the server did not answer for every image: no server answers at" in stderr
    rows = pq.read_table(out).to_pylist() if name.endswith("parquet") else json_rows(out.read_text())
    assert [row["error"] is None for row in rows] == [True] * 20 + [False] * 21
    assert {row["error_kind"] for row in rows[20:]} == {"unavailable"}
    assert all(row["error"].startswith("no server answers") for row in rows[20:])
    assert not list(tmp_path.glob(".labels*"))


@pytest.fixture
def with_ctrl_c():
    """Background jobs of a shell ignore SIGINT, and children inherit that; a handler here means the default there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("with_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_keeps_the_rows_so_far_and_an_earlier_file(start, server, gate, folder, tmp_path, number):
    (tmp_path / "labels.parquet").write_bytes(b"of an earlier run")
    (folder / "20.png").write_bytes(gate.image)
    out = tmp_path / "labels.parquet"
    asked = ["classify", folder, "--head", "color", "--out", out, "--url", server.grpc_url, "--concurrency", "1"]
    process = start(*asked)
    gate.await_request()
    process.send_signal(number)
    gate.open()
    code, _, stderr = process.finish()
    assert code == 1
    kept = tmp_path / "labels.partial.parquet"
    assert f"written to {kept}\nerror: interrupted; the rows up to here are kept\n" in stderr
    assert 1 <= pq.read_table(kept).num_rows <= 21
    assert out.read_bytes() == b"of an earlier run"
    assert sorted(path.name for path in tmp_path.glob("*labels*")) == [out.name, kept.name]


def test_heads_lists_what_is_served(start, server):
    code, stdout, stderr = start("heads", "--url", server.grpc_url).finish()
    assert (code, stderr) == (0, "")
    color, grid = (line for line in stdout.splitlines() if "tiny" in line)
    assert "color" in color
    assert "40" in grid


@pytest.mark.parametrize("heads", [(), ("--head", "mld")])
def test_no_or_unknown_head_lists_them_and_is_wrong_usage(run, server, folder, tmp_path, heads):
    out = tmp_path / "labels.parquet"
    result = run("classify", folder, *heads, "--out", out, "--url", server.grpc_url)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert "color, grid" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize("arguments", [("classify", __file__, "--head", "mld"), ("heads",)])
def test_unreachable_server_is_one_line_and_exit_code_1(start, arguments, tmp_path):
    code, stdout, stderr = start(
        *arguments, "--url", NOWHERE, *(["--out", tmp_path / "x.jsonl"] if "classify" in arguments else [])
    ).finish()
    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"error: no server answers at {NOWHERE}: ")
    assert stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(start):
    code, _, stderr = start("heads", "--url", NOWHERE, "--debug").finish()
    assert code == 1
    assert "Traceback" in stderr
    assert "ServerUnavailable" in stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["classify"], "name inputs: files, folders, manifests, URLs, or - for stdin"),
        (["classify", "no-such-file.png"], "no such file or folder: no-such-file.png"),
        (["classify", __file__, "--out", "x.csv"], "write to a .parquet or .jsonl file"),
        (["classify", __file__, "--head", "a", "--head", "a"], "name at least one head, and each once, not: a, a"),
        (["classify", __file__, "--texts", "no.csv"], "--texts no.csv: No such file or directory: name a .csv or"),
        (["classify", __file__, "--log", "no/log"], "--log no/log: No such file or directory: name a file that can be"),
        (["classify", __file__, "--user-agent", "é"], "user_agent must be printable ASCII, not 'é'"),
        (["classify", __file__, "--via", "fax"], "fax"),
        (["classify", __file__, "--concurrency", "0"], "concurrency"),
        (["classify", __file__, "--timeout", "0"], "timeout"),
        (["classify", __file__, "--timeout", "inf"], "timeout must be more than 0 seconds, and finite, not inf"),
        (["classify", __file__, "--top-k", "-1"], "top-k"),
        (["classify", __file__, "--threads", "9" * 300], "threads"),
        (["classify", __file__, "--job", "j", "--shard-rows", "9" * 20], "shard-rows"),
    ],
)
def test_wrong_usage_is_exit_code_2(run, arguments, reason):
    result = run(*arguments, "--url", NOWHERE)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["m.jsonl", "--out", "m.jsonl"],
        ["*.jsonl", "--out", "m.jsonl"],
        ["m.jsonl", "--out", "link.jsonl"],
        ["m.jsonl", "--log", "m.jsonl"],
        ["a.png", "--texts", "m.jsonl", "--out", "m.jsonl"],
    ],
)
def test_an_input_is_never_an_output(run, here, arguments):
    (here / "a.png").write_bytes(b"x")
    (here / "m.jsonl").write_text('{"path": "a.png", "text": "x"}\n')
    (here / "link.jsonl").symlink_to("m.jsonl")
    result = run("classify", *arguments, "--url", NOWHERE)
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {arguments[-1]} is an input: name another file for the output\n",
    )
    assert (here / "m.jsonl").read_text() == '{"path": "a.png", "text": "x"}\n'
    both = run("classify", "a.png", "--out", "x.jsonl", "--log", "x.jsonl", "--url", NOWHERE)
    assert both.stderr == "error: x.jsonl is named for two outputs: give each its own file\n"


def test_names_are_text_never_markup_and_bytes_that_are_no_utf8_are_escaped(run, monkeypatch):
    spec = PixelSpec(8)
    odd = HeadInfo("[/misc]", ("[bold]a", ":cat:"), "hash", (0.5, 0.5), "[link]e", spec, 2, "1", "0.1.0")
    monkeypatch.setattr("mlclip_client.client.Client.heads", lambda client: (odd,))
    shown = run("heads", "--url", NOWHERE)
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in ("[/misc]", "[bold]a, :cat:", "[link]e")), shown.stdout
    gone = run("classify", os.fsdecode(b"[/misc] caf\xe9.png"), "--url", NOWHERE)
    assert gone.stderr == "error: nothing matches [/misc] caf\\xe9.png\n"


@pytest.mark.parametrize(
    "arguments", [["classify", "a.png", "--texts", "x.jsonl"], ["report", "x.jsonl"], ["duplicates", "x.jsonl"]]
)
def test_named_pipes_are_refused_not_waited_for(start, here, arguments):
    (here / "a.png").write_bytes(b"x")
    os.mkfifo(here / "x.jsonl")
    url = ["--url", NOWHERE] if arguments[0] == "classify" else []
    code, _, stderr = start(*arguments, *url).finish()
    assert (code, stderr.count("\n")) == (2, 1)
    assert "not a regular file" in stderr


@pytest.mark.parametrize("command", [["classify", __file__], ["heads"]])
def test_a_wrong_address_is_wrong_usage(run, command):
    result = run(*command, "--url", f"{NOWHERE},127.0.0.1")
    reason = "127.0.0.1 has no port: give host:port, such as 127.0.0.1:8001"
    assert (result.exit_code, result.stderr) == (2, f"error: {reason}\n")


def test_a_folder_without_images_fails_with_a_count(run, tmp_path):
    for count in ("", "; 1 other file left alone"):
        result = run("classify", tmp_path, "--head", "mld", "--url", NOWHERE)
        assert (result.exit_code, result.stderr) == (1, f"error: no images found{count}\n")
        (tmp_path / "notes.txt").write_text("x")


@pytest.mark.usefixtures("with_ctrl_c")
def test_ctrl_c_while_the_program_loads_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mlclip_client", "heads"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: interrupted\n")


@pytest.mark.usefixtures("with_ctrl_c")
def test_ctrl_c_before_the_server_has_answered_is_one_line(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        out = tmp_path / "labels.parquet"
        process = start("classify", __file__, "--head", "a", "--url", url, "--out", out)
        with silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            assert process.finish() == (1, "", "error: interrupted\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("closed", "arguments", "line"),
    [
        (0, ["classify", "-"], "error: - stands for stdin, which is closed: pipe a list into it\n"),
        (
            1,
            ["classify", __file__, "--out", "-"],
            "error: --out - stands for stdout, which is closed: write to a .parquet or .jsonl file\n",
        ),
        (1, ["heads"], "error: stdout is closed, and there is nowhere else to write to\n"),
        (
            1,
            ["retry-failed", "job", "--out", "-"],
            "error: --out - stands for stdout, which is closed: write to a .parquet or .jsonl file\n",
        ),
        (2, ["classify", "no-such-file.png"], ""),
    ],
)
def test_what_needs_a_stream_that_is_closed_is_wrong_usage(start, closed, arguments, line):
    process = start(*arguments, "--url", NOWHERE, closed=closed)
    assert process.finish() == (2, "", line)


def test_help_tells_defaults_and_which_options_are_flags(run):
    text = {name: run(name, "--help", env={"COLUMNS": "200"}).stdout for name in ("classify", "retry-failed", "status")}
    assert "[default: labels.parquet]" in text["classify"]
    assert "[default: busy, deadline, download, read, server, unavailable]" in text["retry-failed"]
    for name in ("classify", "retry-failed"):
        assert "[default: RAY_ADDRESS, or this machine]" in text[name]
        assert f"[default: mlclip-client/{version('mlclip-client')}]" in text[name]
    for shown in text.values():
        flags = [line.split()[1] for line in shown.splitlines() if "bool" in line]
        assert flags in ([], ["--help"])


def test_the_user_agent_reaches_the_reader_of_inputs(run, monkeypatch):
    asked = []

    def stop(limits):
        asked.append(limits.user_agent)
        raise ValueError("far enough")

    monkeypatch.setattr("mlclip_client.bulk.stream.run_stream", lambda request, *_: stop(request.limits))
    monkeypatch.setattr("mlclip_client.jobs.run.run_retry", lambda job, kinds, limits, *_: stop(limits))
    for command in (["classify", "https://x.org/a.jpg"], ["retry-failed", "job"]):
        for more in ([], ["--user-agent", "bot/1 (me@x.org)"]):
            assert run(*command, *more).stderr == "error: far enough\n"
    assert asked == [f"mlclip-client/{version('mlclip-client')}", "bot/1 (me@x.org)"] * 2


def test_an_interrupted_run_does_not_count_answers_of_rows_that_were_not_written(capsys):
    assert conclude(Summary(Tally(labelled=5, saved=63), interrupted=True), None, "-") == 1
    assert capsys.readouterr().err == "5 inputs: 5 labelled\nerror: interrupted; the rows up to here are kept\n"
    assert conclude(Summary(Tally(labelled=5, saved=3, retries=1)), None, "-") == 0
    line = "5 inputs: 5 labelled; 3 took the answer of the same bytes; 1 request sent again\n"
    assert capsys.readouterr().err == line
