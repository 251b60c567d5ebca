"""The library against the real server: right answers, errors that stay with their image, no hang."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import mlclip_client
import numpy as np
import pytest
import tritonclient.grpc
from mlclip_client import (
    AsyncClient,
    BadImage,
    Client,
    DeadlineExceeded,
    ServerUnavailable,
    TooLarge,
    UnknownHead,
    Unreadable,
)
from mlclip_client.pixels import to_pixels
from PIL import Image

from .input_files import encoded

BOTH = ("color", "grid")


def encoder_runs(server):
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        statistics = client.get_inference_statistics("encoder_tiny", client_timeout=30)
    return statistics.model_stats[0].inference_count


def assert_right(prediction, data, tiny, heads):
    assert prediction.error is None
    assert list(prediction.answers) == list(heads)
    for head in heads:
        answer, scores = prediction.answers[head], tiny.scores(data, head)
        np.testing.assert_allclose(answer.scores, scores, atol=1e-5)
        assert answer.scores.dtype == np.float32
        assert np.array_equal(answer.selected, answer.scores >= tiny.weights[head].thresholds)
        assert answer.labels == tiny.labels[head]


@pytest.mark.parametrize("via", ["bytes", "pixels"])
@pytest.mark.parametrize("heads", [("color",), ("grid",), BOTH, ("grid", "color")])
def test_labels_and_scores_are_those_of_numpy(server, tiny, files, heads, via):
    with Client(server.grpc_url, heads=heads, via=via) as client:
        for data, prediction in zip(files, client.classify_many(files), strict=True):
            assert_right(prediction, data, tiny, heads)


def test_a_clear_image_gets_its_label(server):
    with Client(server.grpc_url, heads=("color",)) as client:
        answer = client.classify(encoded(Image.new("RGB", (40, 30), (0, 255, 0)))).answers["color"]
    assert [label for label, _ in answer.chosen()] == ["green"]
    assert [label for label, _ in answer.top(2)] == ["green", "bright"]
    assert answer.top(1)[0][1] == pytest.approx(1 / (1 + np.exp(-5)), abs=1e-6)


def test_several_heads_cost_one_encoder_pass(server, files, settled):
    with Client(server.grpc_url, heads=BOTH) as client:
        client.asked_heads()
        before = settled(lambda: encoder_runs(server))
        assert all(prediction.error is None for prediction in client.classify_many(files))
    assert settled(lambda: encoder_runs(server), before + len(files)) == before + len(files)


def test_pixels_equal_bytes_to_the_last_bit(server, files):
    """One request at a time: batches of different sizes may round differently."""
    with Client(server.grpc_url, heads=BOTH) as decoded_there:
        there = [decoded_there.classify(data) for data in files]
    with Client(server.grpc_url, heads=BOTH, via="pixels") as decoded_here:
        here = [decoded_here.classify(data) for data in files]
    for one, other in zip(there, here, strict=True):
        for head in BOTH:
            assert np.array_equal(one.answers[head].scores, other.answers[head].scores)
    assert there[0].answers["grid"].model == "heads_tiny_bytes"
    assert here[0].answers["grid"].model == "heads_tiny"


def test_every_kind_of_image_argument_gives_the_same_answer(server, tiny, files, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(files[0])
    with Image.open(path) as picture, Client(server.grpc_url, heads=("grid",)) as client:
        images = [files[0], path, str(path), picture, to_pixels(files[0], tiny.spec)]
        predictions = list(client.classify_many(images))
    assert [prediction.source for prediction in predictions] == [None, str(path), str(path), None, None]
    for prediction in predictions:
        assert_right(prediction, files[0], tiny, ("grid",))


@pytest.mark.parametrize("heads", [("color",), BOTH])
def test_embeddings_come_only_when_asked(server, tiny, files, heads):
    with Client(server.grpc_url, heads=heads, embeddings=True) as client:
        embedding = client.classify(files[0]).embedding
    mean = to_pixels(files[0], tiny.spec).astype(np.float32).mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(embedding, mean, atol=1e-6)
    with Client(server.grpc_url, heads=heads) as client:
        assert client.classify(files[0]).embedding is None


def test_broken_images_fail_alone(server, tiny, files, tmp_path):
    images = list(files)
    images[3], images[7], images[9] = b"no image", b"", files[9][:40]
    images[11] = tmp_path / "missing.png"
    images[13] = tmp_path
    images[15] = np.zeros((5, 5, 3), np.uint8)
    images[17] = bytes(4001)
    with Client(server.grpc_url, heads=BOTH, max_bytes=4000) as client:
        predictions = list(client.classify_many(images, concurrency=8))
    kinds = {3: BadImage, 7: BadImage, 9: BadImage, 11: Unreadable, 13: Unreadable, 15: BadImage, 17: TooLarge}
    for number, (prediction, data) in enumerate(zip(predictions, files, strict=True)):
        if number in kinds:
            assert type(prediction.error) is kinds[number], number
            assert not prediction.answers
        else:
            assert_right(prediction, data, tiny, BOTH)
    assert str(predictions[3].error) == "not an image in a format that Pillow reads"
    assert "uint8 [8, 8, 3]" in str(predictions[15].error)


@pytest.mark.parametrize("via", ["bytes", "pixels"])
def test_classify_raises_what_classify_many_reports(server, via):
    with Client(server.grpc_url, heads=("color",), via=via) as client:
        with pytest.raises(BadImage, match=r"^the file is empty$"):
            client.classify(b"")
        assert str(next(client.classify_many([b""])).error) == "the file is empty"


def test_async_equals_sync(server, files):
    images = [*files, b"no image", *files]

    async def ask():
        async with AsyncClient(server.grpc_url, heads=BOTH, embeddings=True) as client:
            assert [head.name for head in await client.heads()] == ["color", "grid"]
            assert (await client.model_info("grid")).labels[39] == "cell 39"
            return [prediction async for prediction in client.classify_many(images, concurrency=5)]

    with Client(server.grpc_url, heads=BOTH, embeddings=True) as client:
        wanted = list(client.classify_many(images, concurrency=5))
    found = asyncio.run(ask())
    assert len(found) == len(wanted) == 81
    for one, other in zip(found, wanted, strict=True):
        assert repr(one.error) == repr(other.error)
        assert one.answers.keys() == other.answers.keys()
        if one.error is None:
            np.testing.assert_allclose(one.embedding, other.embedding, atol=1e-5)
        for head in one.answers:
            np.testing.assert_allclose(one.answers[head].scores, other.answers[head].scores, atol=1e-5)


def test_server_describes_its_heads(server, tiny):
    with Client(server.grpc_url) as client:
        color, grid = client.heads()
        assert (color.name, grid.name) == ("color", "grid")
        assert client.model_info("grid") == grid
    assert grid.labels == tiny.labels["grid"]
    np.testing.assert_allclose(grid.thresholds, tiny.weights["grid"].thresholds)
    assert (grid.spec, grid.encoder, grid.version, grid.embedding_size) == (tiny.spec, "tiny", "1", 3)


@pytest.mark.parametrize("heads", [("mld",), None, ("color", "mld")])
def test_unknown_or_missing_head_lists_what_there_is(server, files, heads):
    with Client(server.grpc_url, heads=heads) as client, pytest.raises(UnknownHead, match="color, grid"):
        client.classify(files[0])


def test_many_threads_may_share_a_client(server, tiny, files):
    with Client(server.grpc_url, heads=BOTH) as client, ThreadPoolExecutor(8) as pool:
        for data, prediction in zip(files, pool.map(client.classify, files), strict=True):
            assert_right(prediction, data, tiny, BOTH)


def test_large_image_passes(server, tiny):
    data = encoded(Image.new("RGB", (1500, 1500), (9, 200, 77)), "BMP")
    assert len(data) > 4 * 2**20, "over gRPC's own default limit"
    with Client(server.grpc_url, heads=BOTH) as client:
        assert_right(client.classify(data), data, tiny, BOTH)


def test_deadline_ends_a_request_that_the_server_holds(server, gate, files):
    with Client(server.grpc_url, heads=("color",), timeout=5) as client:
        client.asked_heads()
        with pytest.raises(DeadlineExceeded, match="within 5 s"):
            client.classify(gate.image)
        gate.await_request()
        gate.open()
    with Client(server.grpc_url, heads=("color",)) as client:
        assert client.classify(files[0]).error is None


def copy(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def join_slowly(door, url):
    """Join one caller with the server, whose first bytes take 0.3 s."""
    host, _, port = url.rpartition(":")
    with door.accept()[0] as caller, socket.create_connection((host, int(port))) as callee:
        there = threading.Thread(target=copy, args=(caller, callee))
        there.start()
        time.sleep(0.3)
        copy(callee, caller)
        there.join()


def test_a_server_that_is_far_away_is_reached_at_the_first_try(server, tiny, files):
    with socket.create_server(("127.0.0.1", 0)) as door:
        way = threading.Thread(target=join_slowly, args=(door, server.grpc_url), daemon=True)
        way.start()
        with Client(f"127.0.0.1:{door.getsockname()[1]}", heads=("color",)) as client:
            assert_right(client.classify(files[0]), files[0], tiny, ("color",))
        way.join(60)


class Watched:
    """Counts the requests of a client that are under way, and the images that it has taken."""

    def __init__(self, client, images, monkeypatch, together=1):
        self.now, self.most, self.taken = 0, 0, 0
        self.lock, self.barrier = threading.Lock(), threading.Barrier(together, timeout=60)
        self.images, transport = images, client.transport.endpoints[0].transport
        self.call = transport.call
        monkeypatch.setattr(transport, "call", self.counted)

    def __iter__(self):
        for image in self.images:
            self.taken += 1
            yield image

    async def counted(self, rpc, request):
        with self.lock:
            self.now, self.most = self.now + 1, max(self.most, self.now + 1)
        self.barrier.wait()
        try:
            return await self.call(rpc, request)
        finally:
            with self.lock:
                self.now -= 1


def test_requests_under_way_and_images_in_memory_are_bounded(server, files, monkeypatch):
    with Client(server.grpc_url, heads=BOTH) as client:
        client.asked_heads()
        watched = Watched(client, files, monkeypatch, together=4)
        for given, prediction in enumerate(client.classify_many(watched, concurrency=4)):
            assert prediction.error is None
            assert watched.taken - given <= 2 * 4
    assert (watched.most, watched.taken) == (4, len(files))


def test_asyncio_bounds_them_as_well(server, files, monkeypatch):
    async def ask():
        async with AsyncClient(server.grpc_url, heads=BOTH) as client:
            await client.asked_heads()
            watched, given = Watched(client, files, monkeypatch), 0
            async for prediction in client.classify_many(watched, concurrency=4):
                assert prediction.error is None
                assert watched.taken - given <= 2 * 4
                given += 1
            return watched

    watched = asyncio.run(ask())
    assert (watched.most, watched.taken) == (4, len(files))


def test_giving_up_in_the_middle_stops_the_work(server, files, monkeypatch):
    with Client(server.grpc_url, heads=("color",)) as client:
        watched = Watched(client, files, monkeypatch)
        predictions = client.classify_many(watched, concurrency=2)
        next(predictions)
        predictions.close()
    assert watched.taken <= 4


def test_killed_server_is_an_error_not_a_hang(mortal_server, gate, files):
    with Client(mortal_server.grpc_url, heads=("color",), timeout=300) as client:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.classify, gate.image)
            gate.await_request()
            os.kill(mortal_server.pid, signal.SIGKILL)
            assert isinstance(asked.exception(timeout=60), ServerUnavailable)
        rest = list(client.classify_many(files))
    assert {type(prediction.error) for prediction in rest} == {ServerUnavailable}


@pytest.mark.slow
def test_killed_server_is_an_error_for_asyncio_too(mortal_server, gate):
    async def ask():
        async with AsyncClient(mortal_server.grpc_url, heads=("color",), timeout=300) as client:
            asked = asyncio.create_task(client.classify(gate.image))
            await asyncio.to_thread(gate.await_request)
            os.kill(mortal_server.pid, signal.SIGKILL)
            with pytest.raises(ServerUnavailable):
                await asyncio.wait_for(asked, 60)

    asyncio.run(ask())


def test_every_public_name_exists():
    assert all(getattr(mlclip_client, name).__name__ == name for name in mlclip_client.__all__)
    assert not hasattr(mlclip_client, "nothing_of_this_name")
