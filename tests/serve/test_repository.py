"""What is noticed about a repository before Triton is started."""

import shutil
import subprocess
from pathlib import Path

import pytest
from mlclip_client.cpu import cores as client_cores
from mlclip_serve import RepositoryError
from mlclip_serve.cores import available_cores
from mlclip_serve.repository import check_repository, link_models
from tritonclient.grpc import model_config_pb2 as pb

from ..models import same, write_config, write_ensemble
from .conftest import EMBEDDING_OUT, PIXELS


def test_complete_repository_passes(repository):
    assert "demo" in check_repository(repository).models


def test_empty_repository_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("no model")
    (tmp_path / "notes").mkdir()
    with pytest.raises(RepositoryError, match="holds no model"):
        check_repository(tmp_path)


def test_unreadable_config_is_named_with_its_line(tiny_repository):
    (tiny_repository / "encoder" / "config.pbtxt").write_text('name: "encoder"\nno such field\n')
    with pytest.raises(RepositoryError, match=r"encoder/config.pbtxt cannot be read: 2:\d+"):
        check_repository(tiny_repository)


def test_ensemble_without_its_model_is_named(tiny_repository):
    write_ensemble(tiny_repository / "lost", [PIXELS], [EMBEDDING_OUT], [("gone", {}, {})])
    with pytest.raises(RepositoryError, match="ensemble 'lost' needs the model 'gone'"):
        check_repository(tiny_repository)


def test_model_without_version_is_named(tiny_repository):
    version = tiny_repository / "encoder" / "1"
    version.rename(version.with_name("draft"))
    with pytest.raises(RepositoryError, match="model 'encoder' has no version"):
        check_repository(tiny_repository)


def test_ensemble_whose_empty_version_was_lost_is_named(tiny_repository):
    (tiny_repository / "demo" / "1").rmdir()
    with pytest.raises(RepositoryError, match="ensemble 'demo' has no version: the empty folder .*demo/1 is missing"):
        check_repository(tiny_repository)


def test_highest_version_counts(tiny_repository):
    (tiny_repository / "encoder" / "10").mkdir()
    with pytest.raises(RepositoryError, match="encoder/10/model.onnx is missing"):
        check_repository(tiny_repository)


def test_specific_version_counts_where_the_config_says_so(tiny_repository):
    (tiny_repository / "encoder" / "10").mkdir()
    with (tiny_repository / "encoder" / "config.pbtxt").open("a") as config:
        config.write("version_policy { specific { versions: [1] } }\n")
    assert check_repository(tiny_repository).models == ["demo", "encoder"]


def test_backend_that_is_not_embedded_points_to_the_container(tiny_repository):
    write_config(tiny_repository / "plan", [PIXELS], [EMBEDDING_OUT], backend="tensorrt")
    with pytest.raises(RepositoryError, match="'plan' needs the backend 'tensorrt'.* --docker"):
        check_repository(tiny_repository)


def test_variant_that_no_model_has_is_refused(tiny_repository):
    with pytest.raises(RepositoryError, match="no model in .* has a config named h100"):
        check_repository(tiny_repository, "h100")


def test_models_that_ask_for_it_have_an_instance_per_core(tiny_repository, tmp_path):
    group = pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    folder = write_config(tiny_repository / "decode", [], [], {"instances": "cores"}, instance_group=[group])
    (folder / "1" / "model.py").touch()
    before = (folder / "config.pbtxt").read_text()
    link_models(tiny_repository, ["decode", "encoder"], tmp_path / "links", 3)
    assert "count: 3" in (tmp_path / "links/decode/config.pbtxt").read_text()
    assert (tmp_path / "links/decode/1/model.py").is_file() and (folder / "config.pbtxt").read_text() == before
    assert (tmp_path / "links/encoder").is_symlink()


def sign(folder):
    """List a model's files with their digests, as an export does, which leaves no version empty."""
    (folder / "1" / "README").touch()
    files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    done = subprocess.run(["sha256sum", *files], cwd=folder, capture_output=True, text=True, check=True)
    (folder / "SHA256SUMS").write_text(done.stdout)


@pytest.fixture
def signed(tiny_repository):
    """Two ensembles on one encoder; one of them has a head of its own."""
    shutil.copytree(tiny_repository / "encoder", tiny_repository / "head")
    config = tiny_repository / "head" / "config.pbtxt"
    config.write_text(config.read_text().replace('"encoder"', '"head"'))
    step = ("head", same("pixels"), same("embedding_out"))
    write_ensemble(tiny_repository / "headed", [PIXELS], [EMBEDDING_OUT], [step])
    for name in ("demo", "encoder", "head", "headed"):
        sign(tiny_repository / name)
    return tiny_repository


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("file", "damage", "refused"),
    [
        ("head/1/model.onnx.data", flip, "head/1/model.onnx.data is not as it was exported; not served: headed;"),
        ("headed/config.pbtxt", flip, "headed/config.pbtxt is not as it was exported; not served: headed;"),
        ("head/1/model.onnx", Path.unlink, "head/1/model.onnx cannot be read: No such file or directory; not served"),
        ("headed/config.pbtxt", Path.unlink, "headed/config.pbtxt cannot be read: No such file or directory; not ser"),
        ("head/SHA256SUMS", lambda path: path.write_bytes(b"\xff"), "head/SHA256SUMS cannot be read: "),
        ("head/SHA256SUMS", lambda path: path.write_bytes(b"0  a\0b\n"), "head/a\\0b cannot be read: embedded"),
        ("head/2", Path.mkdir, "head/2 was not exported; not served: headed;"),
    ],
)
def test_only_what_needs_a_damaged_model_is_left_out(signed, file, damage, refused):
    assert check_repository(signed).damage == []
    damage(signed / file)
    checked = check_repository(signed)
    assert set(checked.models) - {"head"} == {"demo", "encoder"}
    (line,) = checked.damage
    assert line.startswith(f"{signed}/{refused}") and line.endswith("; export again") and "\n" not in line


@pytest.mark.faults
def test_a_repository_in_which_nothing_is_left_to_serve_is_refused(signed):
    for name in ("demo", "headed"):
        flip(signed / name / "config.pbtxt")
    with pytest.raises(RepositoryError, match="demo/config.pbtxt is not as it was exported; not served: demo; export"):
        check_repository(signed)


def test_files_that_a_server_writes_are_no_damage(signed):
    (signed / "head" / "1" / "__pycache__").mkdir()
    (signed / "head" / "1" / "__pycache__" / "model.pyc").touch()
    assert check_repository(signed).damage == []


@pytest.mark.faults
def test_shared_memory_grows_with_processes_and_the_largest_image(tiny_repository):
    least = check_repository(tiny_repository).shared_memory
    parameters = {"instances": "cores", "max_bytes": str(8 << 20)}
    folder = write_config(tiny_repository / "decode", [], [], parameters, backend="python")
    (folder / "1" / "model.py").touch()
    assert least == 1 << 20
    assert check_repository(tiny_repository, cores=3).shared_memory == least + 3 * (9 << 20)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("3:cpu:/x\n0::/y", {"y/cpu.max": "300000 100000"}, 3),
    ],
)
@pytest.mark.parametrize("count", [available_cores, client_cores])
def test_cores_are_those_of_affinity_and_cgroups(tmp_path, monkeypatch, groups, files, cores, count):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 5})
    assert count(tmp_path) == 4, "no cgroups"
    for name, text in {
        "proc/self/cgroup": groups,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert count(tmp_path) == cores
