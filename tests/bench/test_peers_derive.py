"""From synthetic raw lines to ratios: what was put in comes out, with intervals that hold."""

import json

import numpy as np
import pytest
from mlclip_bench.kit.intervals import median
from mlclip_bench.peers.derive import Results, derive
from mlclip_bench.peers.derive import derived_from as derived_with
from mlclip_bench.peers.report import report

IMAGES = 100
NAMES = ("open_clip", "infinity", "mlclip-triton", "perf-analyzer")


def setting(names=NAMES):
    return {
        "kind": "setting",
        "images": IMAGES,
        "bytes": 500_000,
        "rounds": 9,
        "batch": 32,
        "concurrency": 64,
        "seed": 0,
        "classes": 46,
        "encoder": {"tag": "vit-b-32-random", "fingerprint": "0123"},
        "peers": {name: {"title": f"title of {name}", "requirements": [f"{name}==1"]} for name in names},
        "base": "open_clip",
        "provenance": {"machine": "a machine", "python": "3.11", "commit": "abc", "time": "today"},
    }


def derived_from(lines):
    return derived_with(lines[0], lines)


def rounds(name, rates):
    return [
        {"kind": "time", "peer": name, "round": number, "images": IMAGES, "seconds": IMAGES / rate}
        for number, rate in enumerate(rates)
    ]


def ready(name, **about):
    return {"kind": "ready", "peer": name, "seconds": 2.5, "about": about}


def test_known_ratios_come_out_though_the_machine_drifts():
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 11)  # the machine gets three times as fast while it is measured
    base = 20 * drift
    lines = [setting(), *rounds("open_clip", base), *rounds("infinity", 1.5 * base * rng.uniform(0.98, 1.02, 11))]
    peers = derived_from(lines)["peers"]
    ratio = peers["infinity"]["ratio"]
    assert ratio["low"] <= 1.5 <= ratio["high"]
    assert ratio["high"] - ratio["low"] < 0.06
    assert ratio["stable"]
    assert not peers["infinity"]["images_per_second"]["stable"]  # which is why ratios are what counts
    assert peers["open_clip"]["ratio"]["median"] == 1
    assert peers["open_clip"]["images_per_second"]["median"] == pytest.approx(40)


def test_the_interval_is_that_of_a_plain_bootstrap():
    values = np.array([1.0, 1.2, 0.9, 1.1, 1.6, 1.0, 1.3])
    rng = np.random.default_rng(7)
    medians = []
    for _ in range(4000):
        drawn = sorted(values[rng.integers(len(values))] for _ in values)
        medians.append(drawn[len(drawn) // 2])
    found = median(values)
    assert found.low == pytest.approx(np.quantile(medians, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(medians, 0.975), abs=0.03)


def test_a_scattered_ratio_is_called_unstable():
    base = np.full(6, 20.0)
    lines = [setting(), *rounds("open_clip", base), *rounds("infinity", base * [1, 2, 1, 2, 1, 2])]
    derived = derived_from(lines)
    assert not derived["peers"]["infinity"]["ratio"]["stable"]
    assert "unstable" in report(derived)


def test_only_rounds_that_the_base_has_too_make_a_ratio():
    lines = [setting(), *rounds("open_clip", [10, 20]), *rounds("infinity", [20, 40, 1000])]
    infinity = derived_from(lines)["peers"]["infinity"]
    assert infinity["ratio"]["median"] == 2
    assert infinity["rounds"] == 3


def test_one_round_has_no_interval():
    lines = [setting(), *rounds("open_clip", [10]), *rounds("infinity", [25])]
    assert derived_from(lines)["peers"]["infinity"]["ratio"] == {
        "median": 2.5,
        "low": None,
        "high": None,
        "stable": False,
    }


def test_without_the_base_there_are_rates_and_no_ratios():
    infinity = derived_from([setting(), *rounds("infinity", [20, 30])])["peers"]["infinity"]
    assert infinity["ratio"] is None
    assert infinity["images_per_second"]["median"] == pytest.approx(25)


def test_a_peer_that_failed_is_reported_with_its_error_and_what_it_had():
    lines = [
        setting(),
        *rounds("open_clip", [10, 10]),
        {"kind": "failed", "peer": "perf-analyzer", "stage": "install", "error": "no `wheel` for you"},
        *rounds("infinity", [5]),
        {"kind": "failed", "peer": "infinity", "stage": "round 2", "error": "out of memory"},
    ]
    derived = derived_from(lines)
    assert derived["peers"]["perf-analyzer"]["error"] == "no `wheel` for you"
    assert derived["peers"]["infinity"]["ratio"]["median"] == 0.5
    page = report(derived)
    assert "* perf-analyzer (install; perf-analyzer==1): `no 'wheel' for you`" in page
    assert "* infinity (round 2; infinity==1): `out of memory`" in page
    assert "| title of infinity | 5.0 |" in page
    assert "title of perf-analyzer" not in page


def test_perf_analyzer_is_laid_beside_the_client():
    lines = [
        setting(),
        *rounds("mlclip-triton", [18, 18, 18]),
        *rounds("perf-analyzer", [20, 20, 20]),
        ready("perf-analyzer", perf_analyzer="2.60"),
    ]
    assert (
        "perf_analyzer 2.60 counts 20.0 images/s on the server from which mlclip's client gets 18.0: 0.90 of it"
        in report(derived_from(lines))
    )


def test_vectors_that_differ_are_marked():
    found = {"kind": "agreement", "peer": "infinity", "cosine": 0.99, "centred_cosine": 0.41, "own": 0.2}
    lines = [setting(), *rounds("open_clip", [10]), *rounds("infinity", [10])]
    assert "0.4100 **differs** | 20%" in report(derived_from([*lines, found | {"agree": False}]))
    assert "differs" not in report(derived_from([*lines, found | {"agree": True}]))


def test_raw_lines_are_derived_into_a_file_and_left_as_they_are(tmp_path):
    results = Results(tmp_path / "out")
    for line in (setting(), *rounds("open_clip", [10, 11, 12])):
        results.append(line)
    with results.path.open("a") as file:
        file.write('{"kind": "time", "peer": "open_cl')  # a writer that was killed
    before = results.path.read_bytes()
    derived = derive(results)
    assert results.path.read_bytes() == before
    assert json.loads((tmp_path / "out" / "peers.json").read_text()) == derived
    assert derived["peers"]["open_clip"]["rounds"] == 3
