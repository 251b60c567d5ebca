"""What a run shows: counts, lines, a bar, figures for Prometheus, events."""

import io
import json
import logging
import socket
from collections import Counter
from types import SimpleNamespace
from urllib.request import ProxyHandler, build_opener

import pytest
from mlclip_client.bulk import progress
from mlclip_client.bulk.progress import Figures, metrics, progress_line, shown
from mlclip_client.events import logged, tell
from mlclip_client.output.tally import DONE, FAILED, REJECTED, Tally

ROWS = [{"error_kind": kind, "error": f"no {kind}"} for kind in (None, None, "decode", "server", None, "decode")]


@pytest.fixture
def tally():
    return Tally.of(ROWS)


def test_a_tally_tells_inputs_that_are_bad_from_a_server_that_fails(tally):
    assert str(tally) == "6 inputs: 3 labelled, 3 with an error (2 decode, 1 server)"
    assert (tally.rows, tally.errors.total(), tally.last_failure, tally.exit_code()) == (6, 3, "no server", FAILED)
    rejected = Tally.of(ROWS[2:3])
    assert (Tally().exit_code(), rejected.exit_code()) == (DONE, REJECTED)
    assert str(rejected) == "1 input: 0 labelled, 1 with an error (1 decode)"


def test_counts_add_up_and_go_through_json(tally):
    sent = Tally.from_json(json.loads(json.dumps(Tally.of(ROWS[:3]).to_json())))
    assert Tally.of(ROWS[:3]).to_json() == {"rows": 3, "errors": {"decode": 1}}, "as in the footers of shards"
    sent.add(Tally.of(ROWS[3:]))
    assert sent == tally
    counted = Tally(2, Counter(read=1), saved=3, retries=4)
    assert Tally.from_json(counted.to_json()) == counted


def test_a_line_says_how_far_how_fast_and_how_long(tally):
    assert progress_line(tally, None, 0, 3.0) == "6 inputs, 3 with an error, 2/s"
    assert progress_line(tally, 7300, 90, 3.0) == "96 of 7,300 inputs, 3 with an error, 2/s, 1:00:02 left"
    assert progress_line(Tally(labelled=1), None, 0, 1.0) == "1 input, 0 with an error, 1/s"
    assert progress_line(Tally(), 10, 0, 0.0) == "0 of 10 inputs, 0 with an error, 0/s"


def test_lines_come_where_there_is_no_terminal(tally, monkeypatch):
    stream = io.StringIO()
    with shown(tally, 12, 0, stream) as advance:
        advance()
        assert stream.getvalue() == "", "not before its time"
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        advance()
    assert stream.getvalue().startswith("6 of 12 inputs, 3 with an error, ")
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_gets_a_bar(tally):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with shown(tally, 12, 2, stream) as advance:
        advance()
    assert "8/12" in stream.getvalue() and "3 with an error" in stream.getvalue()


@pytest.fixture
def figures(tally):
    endpoints = [SimpleNamespace(url=url, failures=failures) for url, failures in (("a:8001", 0), ("b:8001", 3))]
    backend = SimpleNamespace(transport=SimpleNamespace(retries=4, endpoints=endpoints))
    return Figures(tally, backend, SimpleNamespace(saved=5))


def test_prometheus_reads_the_figures_and_the_port_is_released(figures, lasting_port):
    port = lasting_port()
    with metrics(port, "127.0.0.1", figures):
        text = build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    assert set(text.splitlines()) >= {
        'mlclip_client_inputs_total{outcome="labelled"} 3.0',
        'mlclip_client_inputs_total{outcome="decode"} 2.0',
        "mlclip_client_retries_total 4.0",
        "mlclip_client_saved_total 5.0",
        'mlclip_client_endpoint_up{url="a:8001"} 1.0',
        'mlclip_client_endpoint_up{url="b:8001"} 0.0',
    }
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


def test_a_port_that_is_taken_is_named(figures):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = f"--metrics-port {port}: the port is in use at 127.0.0.1: choose another"
        with pytest.raises(ValueError, match=line), metrics(port, "127.0.0.1", figures):
            pass


def test_events_are_json_lines_with_whatever_names(tmp_path):
    tell("before")
    with logged(tmp_path / "log"):
        tell("input failed", logging.WARNING, path="line\nbreak \udce9", kind="read")
    tell("after")
    line = json.loads((tmp_path / "log").read_text())
    assert (line["event"], line["level"], line["path"]) == ("input failed", "warning", "line\nbreak \udce9")
    assert line["time"].endswith("+00:00")
