"""Real servers that stop, come back, and come back with other models: no row is lost, and none bears a wrong name."""

import asyncio
import itertools
import json
import shutil
import signal
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from mlclip_client import AsyncClient, Client
from tritonclient.grpc import model_config_pb2 as pb

from .conftest import end
from .scripted import rename

pytestmark = pytest.mark.slow
BOTH = ("--head", "color", "--head", "grid")
CRIMSON = ("crimson", "green", "blue", "bright")


def port_of(running):
    return int(running.grpc_url.rpartition(":")[2])


@pytest.fixture
def other(tiny, tmp_path):
    """Write the repository again: some models in another version, and perhaps `color` with other labels."""

    def written(*models, version="2", labels=None):
        root = tmp_path / "other"
        shutil.copytree(tiny.root, root)
        for model in models:
            (root / model / "1").rename(root / model / version)
        for model in ("color", "color_bytes") * (labels is not None):
            file = root / model / "config.pbtxt"
            config = text_format.Parse(file.read_text(), pb.ModelConfig())
            rename(config, labels)
            file.write_text(text_format.MessageToString(config))
        return root

    return written


def test_a_server_that_stops_politely_and_comes_back_costs_a_stream_no_row(start, tiny, serve, gate, folder, tmp_path):
    first, out = serve(tiny.root), tmp_path / "labels.jsonl"
    (folder / "20.png").write_bytes(gate.image)  # sorts after 00 to 19, before `sub`
    asked = ["classify", folder, "--head", "color", "--url", first.grpc_url, "--out", out]
    process = start(*asked, "--concurrency", 1, "--retry-seconds", 300, "--timeout", 300)
    gate.await_request()
    first.send_signal(signal.SIGTERM)
    for _ in range(2):  # the image may be asked for again where its answer is lost
        gate.open()
    first.stop()
    serve(tiny.root, port_of(first))
    code, _, stderr = process.finish()
    assert code == 3, stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["error_kind"] for row in rows] == [None] * 20 + ["decode"] + [None] * 20
    told = [line for line in stderr.splitlines() if first.grpc_url in line]
    assert "; it is asked again from time to time" in told[0] and len(told) == 2
    assert told[1] == f"{first.grpc_url} answers again"


def test_of_two_servers_one_may_stop_politely_under_way(tiny, server, serve, files):
    leaving = serve(tiny.root)
    with Client((leaving.grpc_url, server.grpc_url), heads=("color",), retry_seconds=60) as client:
        client.asked_heads()
        leaving.send_signal(signal.SIGTERM)
        asked = 0
        while asked < 20 or leaving.process.poll() is None:
            answer = client.classify(files[asked % len(files)]).answers["color"]
            np.testing.assert_allclose(answer.scores, tiny.scores(files[asked % len(files)], "color"), atol=1e-5)
            asked += 1
        assert [endpoint.failures > 0 for endpoint in client.transport.endpoints] == [True, False]


def test_a_stream_goes_on_with_what_a_server_has_that_was_exchanged_between_two_lines(
    start, tiny, other, serve, folder
):
    """One head has another version then, the other one has other labels under the same version."""
    first = serve(tiny.root)
    asked = ["classify", "-", *BOTH, "--url", first.grpc_url, "--out", "-", "--top-k", 4]
    process = start(*asked, stdin=subprocess.PIPE)

    def row(name):
        process.stdin.write(f"{folder / name}\n")
        process.stdin.flush()
        answers = json.loads(process.stdout.readline())["answers"]
        return sorted(answers["color"]["top_labels"]), answers["color"]["version"], answers["grid"]["version"]

    before = [row("00.png"), row("01.jpg")]
    end(first)
    serve(other("grid", "grid_bytes", labels=CRIMSON), port_of(first))
    after = [row("02.png"), row("03.jpg")]
    assert before == [(["blue", "bright", "green", "red"], "1", "1")] * 2
    assert after == [(["blue", "bright", "crimson", "green"], "1", "2")] * 2
    code, _, stderr = process.finish()
    assert code == 0
    assert f"head color, version 1, has other labels at {first.grpc_url}, not the same as before" in stderr


def test_asyncio_notices_that_a_server_was_exchanged(tiny, other, serve, files):
    first = serve(tiny.root)

    async def ask():
        async with AsyncClient(first.grpc_url, heads=("color",), retry_seconds=60) as client:
            before = await client.classify(files[0])
            end(first)
            await asyncio.to_thread(serve, other(labels=CRIMSON), port_of(first))
            return before, await client.classify(files[0])

    before, after = (prediction.answers["color"].labels for prediction in asyncio.run(ask()))
    assert (before, after) == (tiny.labels["color"], CRIMSON)


def test_a_job_stops_where_a_server_comes_back_with_another_version(start, tiny, other, serve, gate, folder, tmp_path):
    first, job = serve(tiny.root), tmp_path / "job"
    (folder / "20.png").write_bytes(gate.image)
    asked = ["classify", folder, "--head", "color", "--job", job, "--url", first.grpc_url, "--shard-rows", 8]
    process = start(*asked, "--concurrency", 1, "--retry-seconds", 300, "--timeout", 300)
    gate.await_request()
    end(first)
    for _ in range(2):  # before the start, which asks the models too; the model that dies may still go through once
        gate.open()
    serve(other("color", "color_bytes"), port_of(first))
    code, _, stderr = process.finish()
    assert code == 1
    refused = "error: head color has version 2 now, and this job was begun with 1: serve that one again"
    assert stderr.splitlines()[-1].startswith(refused)
    assert pq.read_table(job / "labels").num_rows == 16


def test_servers_that_differ_are_named_before_anything_is_sent(run, server, other, serve, folder, tmp_path):
    second = serve(other("color", "color_bytes"))
    urls = (server.grpc_url, second.grpc_url)
    arguments = ["classify", folder, "--out", tmp_path / "o.jsonl", "--url", ",".join(urls)]
    result = run(*arguments, *BOTH)
    assert result.stderr == (
        f"error: {urls[0]} and {urls[1]} serve different models: head color has version 2 at {urls[1]}, not 1; "
        "ask servers of the same models only\n"
    )
    assert (result.exit_code, list(tmp_path.glob("o.jsonl"))) == (2, [])
    assert run(*arguments, "--head", "grid").exit_code == 0, "who asks for what they share may ask both"


def test_a_server_that_comes_later_with_other_models_gives_no_answer(server, other, serve, files, lasting_port):
    port = lasting_port()
    with Client((server.grpc_url, f"127.0.0.1:{port}"), heads=("color",), retry_seconds=60) as client:
        client.asked_heads()
        late = client.transport.endpoints[1]
        assert (late.failures, "no server answers at" in late.reason) == (1, True)
        serve(other("color", "color_bytes"), port)
        for _ in range(1000):  # its channel tries again within two seconds
            late.rests_until = 0.0
            assert {client.classify(data).answers["color"].version for data in files} == {"1"}
            if "no server answers at" not in late.reason:
                break
        assert late.failures > 0 and late.reason.startswith("head color has version 2 at")


def test_the_number_of_a_combined_ensemble_is_no_ones_business(run, server, other, serve, folder, tmp_path):
    """It counts up with each head that joins it; those of the heads stay, and so do rows, jobs and servers."""
    root = other("heads_tiny", "heads_tiny_bytes", version="5")
    urls = f"{serve(root).grpc_url},{server.grpc_url}"
    for where, via in itertools.product((["--url", urls], ["--embedded", root]), ("bytes", "pixels")):
        job = tmp_path / f"{where[0]} {via}"
        result = run("classify", folder, *BOTH, "--job", job, "--via", via, *where)
        assert result.exit_code == 0, result.stderr
        answers = pq.read_table(job / "labels")["answers"].to_pylist()
        assert {answer[head]["version"] for answer in answers for head in ("color", "grid")} == {"1"}
        assert {answer["grid"]["model"] for answer in answers} == {"heads_tiny" + "_bytes" * (via == "bytes")}
