"""What is noticed about a repository before Triton is started."""

import pytest
from mlclip_client.cpu import cores as client_cores
from mlclip_serve import RepositoryError
from mlclip_serve.cores import available_cores
from mlclip_serve.repository import check_repository, link_models
from tritonclient.grpc import model_config_pb2 as pb

from ..models import write_config, write_ensemble
from .conftest import EMBEDDING_OUT, PIXELS


def test_complete_repository_passes(repository):
    assert "demo" in check_repository(repository)


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
    assert check_repository(tiny_repository) == ["demo", "encoder"]


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


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 4),
        ("3:cpu,cpuacct:/x\n1:memory:/y", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("3:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 4),
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
