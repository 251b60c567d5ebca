"""Rounds of peers that are small scripts, and of the real ones that need no environment of their own."""

import importlib.util
import json
import struct
import sys
from base64 import b64decode
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import typer
from mlclip_bench.peers import cli, material, measure
from mlclip_bench.peers.catalogue import PEERS, SCRIPTS
from mlclip_bench.peers.derive import Results, derived_from
from mlclip_bench.peers.material import Material, prepare
from mlclip_bench.peers.measure import Plan
from PIL import Image
from typer.testing import CliRunner

from mlclip.encoders.folder import save
from mlclip.errors import MlclipError

VECTORS = """
import json
import numpy as np

def load(settings):
    calls = []
    def embed(paths):
        calls.append(paths)
        if len(calls) > {good}:
            raise RuntimeError("out of memory")
        with open({log!r}, "a") as file:
            file.write(json.dumps([{name!r}, paths]) + "\\n")
        return np.array([np.random.default_rng(len(path)).standard_normal(8) for path in paths]) * {factor}
    return embed, {{}}
"""
UNLOADABLE = "def load(settings):\n    raise OSError('no such model')"


def picture(path, seed, size=(48, 40)):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    """Files whose names have different lengths, by which the small scripts tell them apart."""
    (tmp_path / "images").mkdir()
    return tuple(picture(tmp_path / "images" / f"{'x' * n}.png", n) for n in range(1, 7))


@pytest.fixture
def script(tmp_path):
    """Write a small script and give a peer that runs it here."""

    def script(name, text=VECTORS, *, good=100, factor=1.0, **changes):
        file = tmp_path / f"{name}.py"
        values = {"name": name, "good": good, "factor": factor, "log": str(tmp_path / "seen.jsonl")}
        file.write_text(text.format(**values) if text is VECTORS else text)
        return replace(PEERS[name], script=file, requirements=(), served=False, **changes)

    return script


@pytest.fixture
def nothing(tmp_path):
    """Material that no script here looks at."""
    return Material(tmp_path, tmp_path, tmp_path, tmp_path, {}, {"tag": "none", "fingerprint": "0"})


def measured(tmp_path, images, peers, stuff, rounds=3):
    """Measure, and give the raw lines."""
    plan, results = Plan(tuple(images), rounds=rounds, deadline=300.0), Results(tmp_path / "out")
    results.append(measure.setting(plan, stuff, peers, 46))
    measure.measure(plan, {peer: Path(sys.executable) for peer in peers}, stuff, results)
    return results.lines()


def test_peers_take_turns_on_the_same_images_in_the_same_order(tmp_path, images, script, nothing):
    peers = [script("open_clip"), script("infinity", factor=-3.0), script("mlclip-onnx", factor=2.0)]
    lines = measured(tmp_path, images, peers, nothing)
    seen = [json.loads(row) for row in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert [name for name, _ in seen] == ["open_clip", "infinity", "mlclip-onnx"] * 4  # the first turn is the check
    orders = [paths for _, paths in seen]
    assert orders[3:6] == [orders[3]] * 3
    assert sorted(orders[3]) == sorted(orders[6]) == sorted(map(str, images))
    assert orders[3] != orders[6]
    times = [(line["peer"], line["round"]) for line in lines if line["kind"] == "time"]
    assert times == [(peer.name, number) for number in range(3) for peer in peers]
    agreement = {line["peer"]: line["agree"] for line in lines if line["kind"] == "agreement"}
    assert agreement == {"open_clip": True, "infinity": False, "mlclip-onnx": True}


def test_one_that_fails_is_told_once_and_the_others_go_on(tmp_path, images, script, nothing):
    peers = [script("open_clip"), script("infinity", UNLOADABLE), script("mlclip-onnx", good=2)]
    lines = measured(tmp_path, images, peers, nothing)
    failed = [(line["peer"], line["stage"], line["error"]) for line in lines if line["kind"] == "failed"]
    assert failed == [
        ("infinity", "load", "OSError: no such model"),
        ("mlclip-onnx", "round 2", "RuntimeError: out of memory"),
    ]
    derived = derived_from(lines[0], lines)["peers"]
    assert {name: peer["rounds"] for name, peer in derived.items()} == {"open_clip": 3, "infinity": 0, "mlclip-onnx": 1}
    assert derived["mlclip-onnx"]["ratio"] is not None


def test_a_server_that_does_not_start_fails_those_that_ask_it(tmp_path, images, script, nothing):
    peers = [script("open_clip"), replace(PEERS["mlclip-triton"])]
    lines = measured(tmp_path, images, peers, nothing, rounds=1)
    failed = [line for line in lines if line["kind"] == "failed"]
    assert [line["peer"] for line in failed] == ["mlclip-triton"]
    assert failed[0]["error"].startswith("the server did not start: ")
    assert [line["peer"] for line in lines if line["kind"] == "time"] == ["open_clip"]


def write_encoder(folder):
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    preprocess = {
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.model.CLIP(**config)
    save(model, {"model_cfg": config, "preprocess_cfg": preprocess}, folder)
    return folder


@pytest.fixture(scope="module")
def stuff(tmp_path_factory):
    """Real material of a small encoder."""
    folder = tmp_path_factory.mktemp("material")
    return prepare(str(write_encoder(folder / "nano")), None, 5, folder / "made")


@pytest.mark.slow
def test_open_clip_the_graph_and_the_server_give_the_same_vectors(tmp_path, images, stuff):
    peers = [replace(PEERS[name], requirements=()) for name in ("open_clip", "mlclip-onnx", "mlclip-triton")]
    lines = measured(tmp_path, images, peers, stuff, rounds=1)
    assert [line for line in lines if line["kind"] == "failed"] == []
    agreement = {line["peer"]: line for line in lines if line["kind"] == "agreement"}
    for peer in peers:
        assert agreement[peer.name]["centred_cosine"] > 0.9999
        assert agreement[peer.name]["own"] == 1
    about = {line["peer"]: line["about"] for line in lines if line["kind"] == "ready"}
    assert about["mlclip-triton"]["labels"] == 5
    assert [line["images"] for line in lines if line["kind"] == "time"] == [6, 6, 6]


def test_material_is_written_once_and_a_broken_attempt_is_no_material(tmp_path):
    def write(part):
        part.mkdir()
        (part / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        material._once(tmp_path / "made", write)
    assert not (tmp_path / "made").exists()
    assert material._once(tmp_path / "made", Path.mkdir) == tmp_path / "made"
    assert material._once(tmp_path / "made", write) == tmp_path / "made"


class Command:
    """The command line with small peers in place of the real ones."""

    def __init__(self, tmp_path, monkeypatch, stuff, peers):
        self.out, self.tmp_path = tmp_path / "result", tmp_path
        monkeypatch.setattr(cli, "choose", lambda names: tuple(peers))
        monkeypatch.setattr(material, "prepare", lambda *args, **options: stuff)
        self.app = typer.Typer(pretty_exceptions_enable=False)
        self.app.command()(cli.peers)

    def __call__(self, *words):
        places = ["--out", str(self.out), "--envs", str(self.tmp_path / "envs")]
        return CliRunner().invoke(self.app, [*places, *map(str, words)])


def test_the_command_writes_raw_lines_figures_and_a_page(tmp_path, images, script, nothing, monkeypatch):
    (tmp_path / "images" / "broken.png").write_text("no picture")
    impossible = replace(script("infinity"), requirements=("a-package-that-nobody-made==99",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    command = Command(tmp_path, monkeypatch, nothing, [script("open_clip"), impossible, script("mlclip-onnx")])
    done = command("--images", tmp_path / "images", "--rounds", 2)
    assert done.exit_code == 3
    derived = json.loads((command.out / "peers.json").read_text())
    assert derived["setting"]["images"] == 6
    assert derived["peers"]["infinity"]["failed_at"] == "install"
    assert "a-package-that-nobody-made" in (command.out / "peers.md").read_text()
    assert derived["peers"]["mlclip-onnx"]["rounds"] == 2

    raw = (command.out / "peers.jsonl").read_bytes()
    (command.out / "peers.md").unlink()
    assert command("--derive").exit_code == 0
    assert (command.out / "peers.md").is_file()
    assert (command.out / "peers.jsonl").read_bytes() == raw
    again = command("--images", tmp_path / "images")
    assert isinstance(again.exception, MlclipError)
    assert "holds a measurement: --derive reports it, --out names another folder" in str(again.exception)


def test_ctrl_c_keeps_what_is_there(tmp_path, images, script, nothing, monkeypatch):
    command = Command(tmp_path, monkeypatch, nothing, [script("open_clip"), script("mlclip-onnx")])
    ask, timed = measure.Worker.ask, []

    def stop_in_round_2(worker, request, seconds):
        if request["do"] == "run" and "vectors" not in request:
            timed.append(worker)
            if len(timed) == 4:
                raise KeyboardInterrupt
        return ask(worker, request, seconds)

    monkeypatch.setattr(measure.Worker, "ask", stop_in_round_2)
    done = command("--images", tmp_path / "images", "--rounds", 9)
    assert done.exit_code == 130
    derived = json.loads((command.out / "peers.json").read_text())["peers"]
    assert (derived["open_clip"]["rounds"], derived["mlclip-onnx"]["rounds"]) == (2, 1)
    assert (command.out / "peers.md").is_file()


def test_no_images_and_no_peer_are_errors(tmp_path, script, nothing, monkeypatch, images):
    command = Command(tmp_path, monkeypatch, nothing, [script("open_clip", UNLOADABLE)])
    (tmp_path / "empty").mkdir()
    assert "name files or folders with --images" in str(command("--images", tmp_path / "empty").exception)
    assert "no peer could be measured" in str(command("--images", tmp_path / "images").exception)


PERF_ANALYZER = """#!{python}
import json, sys
if "--version" in sys.argv:
    print("Perf Analyzer Version 2.48.0 (commit unknown)")
    sys.exit({code})
option = dict(zip(sys.argv, sys.argv[1:]))
with open({seen!r}, "w") as file:
    json.dump([option, json.load(open(option["--input-data"]))], file)
with open(option["-f"], "w") as file:
    file.write("Concurrency,Inferences/Second,Client Send\\n8,25.0,17\\n")
"""


@pytest.fixture
def perf_analyzer(tmp_path, monkeypatch):
    """The script of perf_analyzer, with a program in its place that notes what it is asked."""

    def make(code=0):
        spec = importlib.util.spec_from_file_location("run_perf_analyzer", SCRIPTS / "run_perf_analyzer.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        program = tmp_path / "perf_analyzer"
        program.write_text(PERF_ANALYZER.format(python=sys.executable, code=code, seen=str(tmp_path / "asked.json")))
        program.chmod(0o755)
        monkeypatch.setattr(module, "_program", lambda: str(program))
        return module

    return make


@pytest.mark.parametrize(("concurrency", "asked"), [(4, "4"), (64, "6")])
def test_perf_analyzer_gets_the_files_and_its_throughput_becomes_seconds(
    tmp_path, images, perf_analyzer, concurrency, asked
):
    settings = {"head": "mld", "url": "127.0.0.1:8001", "concurrency": concurrency}
    embed, about = perf_analyzer().load(settings)
    assert about == {"perf_analyzer": "2.48.0"}
    assert embed([str(path) for path in images]) == pytest.approx(6 / 25)
    options, data = json.loads((tmp_path / "asked.json").read_text())
    assert options["-m"] == "mld_bytes"
    assert options["--request-count"] == "6"
    assert options["--concurrency-range"] == asked
    for path, row in zip(images, data["data"], strict=True):
        element = b64decode(row["image"]["b64"])
        assert struct.unpack("<I", element[:4]) == (path.stat().st_size,)
        assert element[4:] == path.read_bytes()


def test_perf_analyzer_that_does_not_start_is_an_error(perf_analyzer):
    with pytest.raises(RuntimeError, match="Perf Analyzer Version"):
        perf_analyzer(code=1).load({"head": "mld", "url": "127.0.0.1:8001", "concurrency": 8})
