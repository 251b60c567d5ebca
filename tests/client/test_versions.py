"""Which versions count if servers differ or change."""

from dataclasses import replace

import pytest
from mlclip_client.errors import UnknownHead
from mlclip_client.pixels import PixelSpec
from mlclip_client.server.versions import VersionLock
from mlclip_client.values import HeadInfo

FIRST = (HeadInfo("color", ("red",), "aaa", (0.5,), "tiny", PixelSpec(8, "bicubic", "shortest", 0), 3, "1", "0.1.0"),)


def changed(**values):
    return (replace(FIRST[0], **values),)


SECOND = changed(version="2")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SECOND, "a and b serve different models: head color has version 2 at b, not 1; ask servers of the same"),
        (changed(labels_sha256="bbb"), "head color, version 1, has other labels at b, not the same; ask servers of"),
    ],
)
def test_servers_that_differ_from_the_start_are_refused(other, message):
    with pytest.raises(UnknownHead, match=message):
        VersionLock([("a", FIRST), ("b", other)])
    assert VersionLock([("a", FIRST), ("b", changed(thresholds=(0.4,)))]).heads == FIRST


def test_a_lone_server_may_change(caplog):
    caplog.set_level("WARNING", "mlclip_client")
    lock = VersionLock([("a", FIRST)])
    assert lock.refuses("a", SECOND) is None
    assert lock.heads == SECOND
    (record,) = caplog.records
    assert record.notice == "head color has version 2 at a, not 1 as before: rows name theirs"


def test_of_two_servers_the_last_to_change_makes_the_session_change():
    lock = VersionLock([("a", FIRST), ("b", FIRST)])
    for _ in range(2):
        assert lock.refuses("a", SECOND) == "head color has version 2 at a, not 1 as before: a is left out"
    assert lock.refuses("b", FIRST) is None
    assert lock.heads == FIRST
    assert lock.refuses("b", SECOND) is None
    assert lock.refuses("a", SECOND) is None
    assert lock.heads == SECOND


def test_a_server_that_came_later_counts_like_the_first():
    lock = VersionLock([("a", FIRST)])
    assert lock.refuses("b", FIRST) is None
    assert lock.refuses("a", SECOND) is not None
    assert lock.refuses("b", SECOND) is None


def test_a_server_that_is_given_up_keeps_no_version_locked():
    lock = VersionLock([("a", FIRST), ("b", FIRST)])
    assert lock.refuses("a", SECOND) is not None
    lock.forget()
    assert lock.refuses("a", SECOND) is None
    assert lock.refuses("b", FIRST) is not None


def test_embeddings_stay_those_of_one_encoder():
    lock = VersionLock([("a", FIRST)], embeddings=True)
    assert lock.refuses("a", changed(version="2", encoder="large", embedding_size=5)) is not None
    assert lock.heads == FIRST
    assert lock.refuses("a", SECOND) is None
