"""Many inputs and many kills. MLCLIP_SOAK=100000 runs the same overnight with more inputs; the default is CI's."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from .input_files import add_member, encoded, rows_of

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("MLCLIP_SOAK", "1000"))
CLIENT_DEATHS, SERVER_DEATHS = 5, 2
SHARD = max(20, COUNT // 100)
PEAK = """
import sys
from mlclip_client.cli import main
try:
    main()
except SystemExit as end:
    code = end.code
lines = open("/proc/self/status").read().splitlines()
sys.stderr.write("peak " + next(line for line in lines if line.startswith("VmHWM")).split()[1] + "\\n")
sys.exit(code)
"""


def small_image(number):
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels), "BMP")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """COUNT small files, all different, in folders of a thousand."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        folder = root / f"{number // 1000:03}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:06}.bmp").write_bytes(small_image(number))
    return root


def classify(*arguments, **options):
    command = [sys.executable, "-c", PEAK, "classify", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def test_deaths_of_client_and_server_change_no_row(tiny, server, pictures, tmp_path, assert_same_rows, lasting_port):
    """Clients and servers are killed each time a random number of further shards has been written."""
    from mlclip_serve import Server

    draw, job, fifo = random.Random(0), tmp_path / "job", tmp_path / "events"
    os.mkfifo(fifo)
    asked = (pictures, "--head", "color")
    begin = (*asked, "--job", job, "--shard-rows", SHARD, "--log", fifo, "--retry-seconds", 300)
    deaths = draw.sample(["client"] * CLIENT_DEATHS + ["server"] * SERVER_DEATHS, CLIENT_DEATHS + SERVER_DEATHS)
    shards, port = -(-COUNT // SHARD), lasting_port()
    moments = sorted(draw.sample(range(1, shards - 2), len(deaths)))
    steps = [moment - before for moment, before in zip(moments, [0, *moments], strict=False)]
    running, client, code = None, None, None
    try:
        for step, victim in [*zip(steps, deaths, strict=True), (shards, None)]:
            if running is None:
                running = Server(tiny.root, grpc_port=port, ready_timeout=600).start()
            if client is None:
                client = classify(*begin, "--url", f"127.0.0.1:{port}")
                events = fifo.open()
            written = 0
            while written < step and (line := events.readline()):
                written += json.loads(line)["event"] == "shard written"
            if victim == "client":
                client.kill()
                client.communicate()
                events.close()
                client = None
            elif victim == "server":
                os.killpg(running.pid, signal.SIGKILL)
                running.stop()
                running = None
        events.close()
        _, stderr = client.communicate(timeout=3000)
        code = client.returncode
    finally:
        if client is not None and client.poll() is None:
            client.kill()
            client.communicate()
        if running is not None:
            running.stop()
    assert code == 0, stderr
    calm = classify(*asked, "--out", tmp_path / "calm.parquet", "--url", server.grpc_url)
    assert calm.wait() == 0, calm.stderr.read()
    calm.stderr.close()
    found, wanted = rows_of(job / "labels"), rows_of(tmp_path / "calm.parquet")
    assert len(found) == len(wanted) == COUNT
    assert len({row["path"] for row in found}) == COUNT
    assert_same_rows(found, wanted)


def peak_kib(*arguments):
    process = classify(*arguments)
    _, stderr = process.communicate(timeout=3600)
    assert process.returncode == 0, stderr
    return int(stderr.rpartition("peak ")[2])


def test_memory_does_not_grow_with_the_number_of_inputs(server, pictures, tmp_path):
    """Ten times MLCLIP_SOAK manifest lines against a thousand; they repeat the names of a hundred files."""
    peaks = []
    for count in (1000, 10 * COUNT):
        manifest = tmp_path / f"{count}.csv"
        with manifest.open("w") as lines:
            lines.write("path\n")
            lines.writelines(f"{pictures}/000/{number % 100:06}.bmp\n" for number in range(count))
        out = tmp_path / "labels.parquet"
        peaks.append(peak_kib(manifest, "--head", "color", "--url", server.grpc_url, "--out", out))
        assert pq.read_metadata(out).num_rows == count
    assert peaks[1] <= 1.1 * peaks[0]


def test_a_tar_is_read_member_by_member(server, tmp_path):
    """Half of MLCLIP_SOAK members, which together are larger than the allowed growth of memory."""
    archive, count = tmp_path / "many.tar", COUNT // 2
    padding = 200_000_000 // count
    with tarfile.open(archive, "w") as tar:
        for number in range(count):
            add_member(tar, f"{number:06}.bmp", small_image(number) + bytes(padding))
    few = tmp_path / "few.tar"
    with tarfile.open(archive) as tar, tarfile.open(few, "w") as other:
        for member in list(tar)[:50]:
            other.addfile(member, tar.extractfile(member))
    peaks = []
    for file in (few, archive):
        before = set(tmp_path.rglob("*"))
        out = tmp_path / "labels.parquet"
        peaks.append(peak_kib(file, "--head", "color", "--url", server.grpc_url, "--out", out))
        assert set(tmp_path.rglob("*")) - before <= {out}, "nothing is unpacked"
    assert archive.stat().st_size > 200_000_000
    assert peaks[1] - peaks[0] < 64 * 1024, "KiB; a window of 32 MiB is kept, and each request's own bytes"
    found = rows_of(tmp_path / "labels.parquet")
    assert [row["path"] for row in found] == [f"{archive}/{number:06}.bmp" for number in range(count)]
    assert {row["error_kind"] for row in found} == {None}
