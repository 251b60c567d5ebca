"""Finding the embedded server's parts."""

import os
import sys
from pathlib import Path

import pytest
from mlclip_serve import InstallationError, embedded

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def no_library_folders(monkeypatch):
    monkeypatch.setattr(embedded, "_library_folders", lambda: iter(()))


def test_parts_are_found():
    found = embedded.find_embedded()
    assert os.access(found.executable, os.X_OK)
    assert found.stub.parent.name == VERSION
    assert (found.python_backend / "libtriton_python.so").is_file()
    assert list(found.caches.glob("*/libtritoncache_*.so"))
    assert list(found.libpython.glob(f"libpython{VERSION}.so*"))


def test_missing_libpython_names_the_package(tmp_path, no_library_folders):
    with pytest.raises(InstallationError, match=f"apt-get install libpython{VERSION}`"):
        embedded.find_libpython(tmp_path)


def test_libpython_in_the_wheel_is_used(tmp_path, no_library_folders):
    (tmp_path / f"libpython3-0123abcd.{sys.version_info.minor}.so.1.0").touch()
    assert embedded.find_libpython(tmp_path) == tmp_path


def test_libpython_of_another_version_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "libpython3.2.so.1.0").touch()
    monkeypatch.setattr(embedded, "_library_folders", lambda: iter([tmp_path]))
    with pytest.raises(InstallationError):
        embedded.find_libpython(tmp_path / "bundled")


def test_site_without_server_says_so(tmp_path):
    with pytest.raises(InstallationError, match="holds no tritonserver"):
        embedded.find_embedded(tmp_path)


def test_python_version_without_stub_names_those_that_have_one(tmp_path):
    root = tmp_path / "pytriton" / "tritonserver"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tritonserver").touch()
    (root / "python_backend_stubs" / "3.2").mkdir(parents=True)
    with pytest.raises(InstallationError, match="runs Python models on 3.2, not on Python"):
        embedded.find_embedded(tmp_path)


def test_environment_puts_our_parts_first_and_keeps_the_rest():
    found = embedded.find_embedded()
    made = embedded.server_environment(found, Path("/models/python"), {"LD_LIBRARY_PATH": "/x", "PATH": "/y", "A": "b"})
    assert made["LD_LIBRARY_PATH"].split(":") == [str(found.libraries), str(found.libpython), "/x"]
    assert made["PATH"] == "/models/python/bin:/y"
    assert made["A"] == "b"


@pytest.mark.faults
def test_missing_or_full_shared_memory_is_named(tmp_path):
    with pytest.raises(InstallationError, match="missing or not writable"):
        embedded.check_shared_memory(0, tmp_path / "shm")
    with pytest.raises(InstallationError, match=r"MiB free, the models need 4398046511104: free some, .*--shm-size"):
        embedded.check_shared_memory(1 << 62, tmp_path)
    embedded.check_shared_memory(0, tmp_path)
