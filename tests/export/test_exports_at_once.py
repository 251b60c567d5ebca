"""Two exports into one repository at the same time: both arrive whole."""

import fcntl
import os

import pytest
from mlclip_export import export, export_runs
from mlclip_export.facts import read_facts


@pytest.mark.parametrize("name", ["write_models", "remove_models"])
def test_an_export_writes_alone(encoder, make_run, tmp_path, monkeypatch, name):
    """Another waits for the lock, so none sweeps the staging folder of a living one."""
    act, acted = getattr(export, name), []

    def checked(repository, *arguments):
        handle = os.open(repository, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
        acted.append(name)
        return act(repository, *arguments)

    monkeypatch.setattr(export, name, checked)
    export_runs({"one": make_run(encoder)}, tmp_path, encoders=[encoder])
    assert acted == [name]


def test_heads_that_another_export_writes_meanwhile_stay(encoder, make_run, tmp_path):
    def on_step(step):
        if step == "the repository":
            export_runs({"one": make_run(encoder)}, tmp_path, encoders=[encoder])

    export_runs({"two": make_run(encoder, seed=1)}, tmp_path, encoders=[encoder], on_step=on_step)
    assert set(read_facts(tmp_path).heads) == {"one", "two"}
