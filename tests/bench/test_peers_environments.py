"""Environments of peers, without a network: pip may look at an empty folder only."""

import sys
from dataclasses import replace

import pytest
from mlclip_bench.cli import app
from mlclip_bench.peers import environments
from mlclip_bench.peers.catalogue import PEERS, PeerError, choose
from mlclip_bench.peers.environments import STAMP, interpreter, is_built, last_error
from typer.testing import CliRunner

IMPOSSIBLE = replace(PEERS["infinity"], requirements=("a-package-that-nobody-made==99",))


@pytest.fixture(autouse=True)
def no_index(monkeypatch, tmp_path):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))


def test_a_peer_that_cannot_be_installed_says_what_pip_said(tmp_path):
    with pytest.raises(PeerError) as caught:
        interpreter(IMPOSSIBLE, tmp_path)
    assert str(caught.value).startswith("not installed: pip: ERROR: ")
    assert "a-package-that-nobody-made==99" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "infinity").exists()


def test_an_environment_is_used_again_until_its_requirements_change(tmp_path, monkeypatch):
    commands = []

    def run(command, name):
        commands.append(command)
        (tmp_path / "infinity").mkdir(exist_ok=True)

    monkeypatch.setattr(environments, "_run", run)
    peer = replace(IMPOSSIBLE, requirements=("one==1",))
    python = interpreter(peer, tmp_path)
    assert python == tmp_path / "infinity" / "bin" / "python"
    assert commands[1][-1] == "one==1"
    assert interpreter(peer, tmp_path) == python
    assert len(commands) == 2
    other = replace(peer, requirements=("one==1", "two==2"))
    assert not is_built(other, tmp_path)
    interpreter(other, tmp_path)
    assert len(commands) == 4
    assert "two==2" in (tmp_path / "infinity" / STAMP).read_text()


def test_one_that_was_left_half_built_is_built_anew(tmp_path, monkeypatch):
    def stop(command, name):
        (tmp_path / "infinity").mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(environments, "_run", stop)
    with pytest.raises(KeyboardInterrupt):
        interpreter(IMPOSSIBLE, tmp_path)
    assert not is_built(IMPOSSIBLE, tmp_path)


def test_mlclip_itself_runs_where_the_bench_runs(tmp_path):
    assert str(interpreter(PEERS["mlclip-onnx"], tmp_path)) == sys.executable
    assert is_built(PEERS["mlclip-onnx"], tmp_path)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (
            "WARNING: old\nERROR: no such version\nERROR: nothing found for x==1\nhint: try\n",
            "ERROR: nothing found for x==1",
        ),
        ("it\nbroke\n\n", "broke"),
        ("", ""),
    ],
)
def test_the_last_error_is_what_is_told(output, line):
    assert last_error(output) == line


def test_peers_are_chosen_by_name_in_their_order():
    assert [peer.name for peer in choose("mlclip-onnx, open_clip")] == ["open_clip", "mlclip-onnx"]
    assert len(choose(None)) == len(PEERS)
    with pytest.raises(PeerError, match="no peer is called nobody: choose from open_clip"):
        choose("nobody,infinity")


def test_the_help_names_all_peers():
    shown = CliRunner().invoke(app, ["peers", "--help"], terminal_width=400).output
    assert ", ".join(PEERS) in " ".join(shown.replace("│", " ").split())


def test_all_peers_pin_the_same_torch_and_have_a_script():
    for peer in PEERS.values():
        assert peer.script.is_file()
        assert {pin for pin in peer.requirements if pin.startswith("torch")} in (
            set(),
            {"torch==2.14.1", "torchvision==0.29.1"},
        )
