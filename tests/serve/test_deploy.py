"""The files in deploy/: every argument exists, ports and paths agree, and alerts ask for metrics that there are."""

import configparser
import http.client
import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main
import yaml
from mlclip_serve import cli, command

from .conftest import DEADLINE

DEPLOY = Path(__file__).parents[2] / "deploy"
ENTRYPOINT = json.loads(re.search(r"^ENTRYPOINT (.*)$", (DEPLOY / "Dockerfile").read_text(), re.M)[1])


def parsed(words):
    """What `mlclip-serve` understands."""
    assert Path(words[0]).name == "mlclip-serve"
    return typer.main.get_command(cli.app).make_context("mlclip-serve", list(words[1:])).params


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def rendered():
    """The chart as Helm renders it with its own values: the template only names values."""
    values = {"Release": {"Name": "mlclip"}, "Values": read("chart/values.yaml")}

    def value(match):
        found = values
        for name in match[1].split("."):
            found = found[name]
        return str(found)

    text = re.sub(r"{{ \.([\w.]+) }}", value, (DEPLOY / "chart" / "templates" / "mlclip.yaml").read_text())
    assert "{{" not in text
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_the_image_serves_its_volume_and_answers_for_its_health():
    asked = parsed(ENTRYPOINT)
    assert asked["repository"] == Path("/models") and asked["address"] == "0.0.0.0" and asked["insecure"]
    assert "USER 1000" in (DEPLOY / "Dockerfile").read_text()


def test_compose_agrees_with_the_image():
    services = read("compose.yaml")["services"]
    mlclip, asked = services["mlclip"], parsed(ENTRYPOINT)
    assert mlclip["ports"] == [f"127.0.0.1:{command.PORTS['grpc']}:{command.PORTS['grpc']}"]
    assert mlclip["volumes"] == ["../model_repository:/models:ro"]
    assert f"127.0.0.1:{asked['health_port']}/ready" in mlclip["healthcheck"]["test"][-1]
    configs = read("compose.yaml")["configs"]
    prometheus = yaml.safe_load(configs["prometheus"]["content"])
    assert prometheus["scrape_configs"][0]["static_configs"] == [{"targets": [f"mlclip:{command.PORTS['metrics']}"]}]
    assert prometheus["rule_files"] == [configs["alerts"]["file"]]


def test_the_chart_agrees_with_the_image():
    documents, asked = rendered(), parsed(ENTRYPOINT)
    pod = documents["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert parsed([*ENTRYPOINT, *container["args"]])["cores"] == 4
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert {probe["port"] for probe in probes.values()} == {asked["health_port"]}
    assert [probe["path"] for probe in probes.values()] == ["/ready", "/ready", "/live"]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    assert pod["spec"]["terminationGracePeriodSeconds"] > command.GRACE
    for kind in ("Service", "Deployment", "PodDisruptionBudget"):
        selector = documents[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector) == pod["metadata"]["labels"]
    named = {port["name"]: port["port"] for port in documents["Service"]["spec"]["ports"]}
    assert named == {name: command.PORTS[name] for name in ("grpc", "metrics")}


def test_the_unit_gives_the_server_the_time_that_it_takes_to_stop():
    unit = configparser.ConfigParser()
    unit.read(DEPLOY / "mlclip-serve.service")
    assert parsed(shlex.split(unit["Service"]["ExecStart"]))["health_port"]
    assert int(unit["Service"]["TimeoutStopSec"]) > command.GRACE


@pytest.mark.parametrize("rule", read("alerts.yaml")["groups"][0]["rules"], ids=lambda rule: rule["alert"])
def test_alerts_ask_for_metrics_that_there_are_and_are_explained(server, rule):
    host, port = server.metrics_url.split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=DEADLINE)
    connection.request("GET", "/metrics")
    metrics = connection.getresponse().read().decode()
    connection.close()
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert all(f"{name}{{" in metrics for name in re.findall(r"nv_\w+", rule["expr"]))
    assert f"| `{rule['alert']}` |" in (DEPLOY / "README.md").read_text()
