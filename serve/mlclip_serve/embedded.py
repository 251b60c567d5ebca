"""Find the Triton server inside nvidia-pytriton's wheel, and build the environment that it needs.

pytriton itself is never imported, only its files are used.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlclip_serve.errors import InstallationError

_STUB = "triton_python_backend_stub"
_SHARED_MEMORY = 32 << 20
_MODEL_LIBRARIES = ("numpy", "PIL", "onnxruntime")
"""Packages that the models import."""


@dataclass(frozen=True)
class Embedded:
    """The parts of the embedded server, all absolute paths."""

    executable: Path  # the tritonserver program
    python_backend: Path  # folder with libtriton_python.so and triton_python_backend_utils.py
    stub: Path  # the program that runs Python models, for the running Python version
    caches: Path  # folder with the response caches
    libraries: Path  # folder with the shared libraries that the wheel bundles
    libpython: Path  # folder of libpython3.x.so, which the stub needs


def find_embedded(site: Path | None = None) -> Embedded:
    """Locate the embedded server in a site-packages folder, by default that of nvidia-pytriton.

    Raises InstallationError if a part is missing; the message says what to install.
    """
    site = site or _site_of_pytriton()
    root = site / "pytriton" / "tritonserver"
    libraries = site / "nvidia_pytriton.libs"
    found = Embedded(
        executable=root / "bin" / "tritonserver",
        python_backend=root / "backends" / "python",
        stub=root / "python_backend_stubs" / _python_version() / _STUB,
        caches=root / "caches",
        libraries=libraries,
        libpython=find_libpython(libraries),
    )
    if not found.executable.is_file():
        raise InstallationError(
            f"nvidia-pytriton in {site} holds no tritonserver for this machine: it needs Linux on x86-64 or"
            " arm64; use the container on others, see `mlclip-serve --docker`"
        )
    if not found.stub.is_file():
        versions = ", ".join(sorted(folder.name for folder in (root / "python_backend_stubs").glob("3.*")))
        raise InstallationError(
            f"the embedded Triton runs Python models on {versions or 'no version'}, not on Python"
            f" {_python_version()}: create the virtual environment with one of these versions"
        )
    return found


def find_libpython(bundled: Path) -> Path:
    """Find the folder of the running Python version's shared library.

    `bundled` holds the wheel's own libraries, which include it for some Python versions.
    """
    version = _python_version()
    for folder in _library_folders():
        if folder.is_dir() and any(folder.glob(f"libpython{version}.so.1*")):
            return folder
    if any(bundled.glob(f"libpython3*.{sys.version_info.minor}.so.1*")):
        return bundled
    raise InstallationError(
        f"libpython{version}.so is missing, Triton's Python models need it: `apt-get install libpython{version}`"
        " (Debian, Ubuntu), or use a Python that was built with --enable-shared"
    )


def server_environment(embedded: Embedded, interpreter: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Build the environment for tritonserver and its Python models.

    It is `inherited` with the bundled libraries and libpython first on LD_LIBRARY_PATH, and the interpreter first on
    PATH.
    """
    first = {
        "LD_LIBRARY_PATH": (str(embedded.libraries), str(embedded.libpython)),
        "PATH": (str(interpreter / "bin"),),
    }
    paths = {name: os.pathsep.join([*folders, *filter(None, [inherited.get(name)])]) for name, folders in first.items()}
    return {**inherited, **paths}


def make_interpreter(folder: Path) -> Path:
    """Make the virtual environment in which Python models run.

    Triton's stub starts an isolated interpreter: it ignores PYTHONPATH and PYTHONHOME and takes the packages of the
    first `python3` on PATH. This one, in a new folder, sees the packages that the launcher sees.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    site = folder / "lib" / f"python{_python_version()}" / "site-packages"
    (site / "mlclip_serve.pth").write_text("".join(f"{path}\n" for path in _model_library_folders()))
    return folder


def check_shared_memory(needed: int, folder: Path = Path("/dev/shm")) -> None:
    """Check that there are some bytes of the memory through which Triton talks to the processes of Python models."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InstallationError(f"{folder} is missing or not writable, Triton's Python models need it")
    needed, free = max(needed, _SHARED_MEMORY), shutil.disk_usage(folder).free
    if free < needed:
        raise InstallationError(
            f"{folder} has {free >> 20} MiB free, the models need {needed >> 20}: free some, start a container with a"
            " larger --shm-size, use fewer --cores, or export with a smaller --max-bytes"
        )


def _python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _site_of_pytriton() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise InstallationError("no Triton server is installed: run `pip install nvidia-pytriton`")
    return Path(spec.origin).resolve().parent.parent


def _library_folders() -> Iterator[Path]:
    """List the folders that may hold libpython: the running Python's own first, then the system's."""
    yield from (Path(folder) for name in ("LIBDIR", "LIBPL") if (folder := sysconfig.get_config_var(name)))
    yield Path(sys.base_prefix) / "lib"
    multiarch = sysconfig.get_config_var("MULTIARCH")
    if multiarch:
        yield Path("/usr/lib") / multiarch
    yield from (Path("/usr/local/lib"), Path("/usr/lib64"), Path("/usr/lib"))


def _model_library_folders() -> list[str]:
    folders = []
    for name in _MODEL_LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise InstallationError(f"{name} is not installed, the models need it: run `pip install mlclip-serve`")
        folders.append(str(Path(spec.origin).parent.parent))
    paths = sysconfig.get_paths()
    before = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return list(dict.fromkeys([*before, *folders, paths["purelib"], paths["platlib"]]))
