"""From raw lines to rows, tables and report; Triton's counters and what they grew by."""

import csv
from dataclasses import asdict

import pytest
from mlclip_bench.load.define import Closed, LoadError, Open
from mlclip_bench.load.derive import capacity, rows_of
from mlclip_bench.load.figures import draw_figures
from mlclip_bench.load.report import write_report
from mlclip_bench.load.resources import Usage, cores_and_memory
from mlclip_bench.load.server_counters import Counters, difference, read_statistics
from mlclip_bench.load.tables import write_tables
from tritonclient.grpc import service_pb2

PERF_ANALYZER = (
    "Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,"
    "Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency"
)
ENSEMBLES = {"mld_bytes": ["preprocess", "head_mld"], "other": ["preprocess"]}


def counters(requests, batch, queue, given, infer, output, total):
    """Counters whose means are these microseconds."""
    times = {"queue_ns": queue, "input_ns": given, "infer_ns": infer, "output_ns": output, "success_ns": total}
    sums = {name: mean * 1000 * requests for name, mean in times.items()}
    return Counters(inferences=requests, executions=requests // batch, success=requests, **sums)


@pytest.fixture
def lines(make_window, make_line):
    models = {
        "head_mld/2": asdict(counters(300, 3, 7000, 20, 9000, 100, 16500)),
        "preprocess/1": asdict(counters(300, 1, 1000, 10, 4000, 50, 5100)),
        "mld_bytes/4": asdict(counters(300, 1, 5, 30, 13000, 150, 22000)),
        "unrelated/1": asdict(counters(9, 1, 1, 1, 1, 1, 1)),
    }
    steady = [make_window([0.025] * 100, 5.0)] * 3
    shaky = [make_window([latency] * 100, 5.0) for latency in (0.1, 0.2, 0.4)]
    return [
        make_line(Open(20.0), steady, models=models, ensembles=ENSEMBLES),
        make_line(Closed(4), [make_window([9.0]), *shaky], models=models, ensembles=ENSEMBLES),
        make_line(Closed(1), steady, models=models, ensembles=ENSEMBLES),
    ]


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_rows_are_the_last_three_windows_in_order_of_load(lines):
    rows = rows_of(lines)
    assert [row.load for row in rows] == [Closed(1), Closed(4), Open(20.0)]
    assert [row.stable for row in rows] == [True, False, True]
    assert rows[1].windows == 4
    assert rows[1].mean == pytest.approx(0.7 / 3), "the first window is not among the last three"
    assert rows[0].total.throughput == 20
    assert capacity(rows) == 20


def test_the_csv_has_perf_analyzers_columns_and_adds_up_to_the_latency(lines, tmp_path):
    write_tables(rows_of(lines), tmp_path)
    header, one, four = read(tmp_path / "load.csv")
    assert ",".join(header[:13]) == PERF_ANALYZER
    assert header[13:] == ["Stable", "Errors"]
    assert one[:9] == ["1", "20", "0", "11815", "5", "30", "13000", "150", "0"]
    assert sum(map(float, one[2:9])) == 25000
    assert [float(value) for value in one[9:13]] == pytest.approx([25000] * 4, rel=0.005)
    assert (one[13:], four[13:]) == (["yes", "0"], ["no", "0"])
    opened = read(tmp_path / "load.rates.csv")
    assert ",".join(opened[0][:13]) == PERF_ANALYZER.replace("Concurrency", "Request Rate")
    assert opened[1][0] == "20"


def test_composing_models_are_listed_in_the_order_of_the_ensembles_steps(lines, tmp_path):
    write_tables(rows_of(lines), tmp_path)
    table = read(tmp_path / "load.models.csv")
    assert table[0][:3] == ["Model", "Concurrency", "Request Rate"]
    assert [row[:4] for row in table[1:3]] == [["preprocess_v1", "1", "", "20"], ["head_mld_v2", "1", "", "20"]]
    assert table[2][4:] == ["0", "380", "7000", "20", "9000", "100", "0", "3.00"]
    assert [row[:3] for row in table[5:]] == [["preprocess_v1", "", "20"], ["head_mld_v2", "", "20"]]


def test_waiting_that_the_server_does_not_account_for_is_never_negative(make_window, make_line, tmp_path):
    models = {"mld_bytes/1": asdict(counters(10, 1, 0, 0, 90000, 0, 50000))}
    line = make_line(Closed(1), [make_window([0.02])] * 3, models=models, ensembles={"mld_bytes": []})
    write_tables(rows_of([line]), tmp_path)
    assert read(tmp_path / "load.csv")[1][3] == "0"


def test_a_client_that_was_late_or_filled_a_core_is_named(make_window, make_line):
    late = make_line(Open(1.0), [make_window([0.1] * 10, lag=0.02)] * 3)
    busy = make_line(Open(2.0), [make_window([0.1] * 10)] * 3, client_cores=0.97)
    well = make_line(Open(3.0), [make_window([0.1] * 10, lag=0.005)] * 3)
    quick = make_line(Open(4.0), [make_window([0.005] * 10, lag=0.001)] * 3)
    assert [row.generator_bound for row in rows_of([late, busy, well, quick])] == [True, True, False, False]


def test_statistics_are_read_by_model_and_version():
    reply = service_pb2.ModelStatisticsResponse()
    model = reply.model_stats.add(name="head", version="3", inference_count=12, execution_count=4)
    model.inference_stats.success.count, model.inference_stats.success.ns = 11, 1000
    model.inference_stats.fail.count = 1
    for n, part in enumerate(("queue", "compute_input", "compute_infer", "compute_output"), start=1):
        getattr(model.inference_stats, part).ns = n
    assert read_statistics(reply) == {"head/3": Counters(12, 4, 11, 1000, 1, 1, 2, 3, 4)}


def test_a_difference_is_what_happened_in_between():
    before = {"head/1": Counters(10, 5, 10, 1000, 0, 100, 1, 500, 2), "idle/1": Counters(3, 3, 3, 3, 0, 3, 3, 3, 3)}
    after = {"head/1": Counters(30, 9, 28, 4000, 2, 400, 2, 900, 6), "idle/1": before["idle/1"]}
    grown = difference(before, after | {"new/1": Counters(success=1)})
    assert grown == {"head/1": Counters(20, 4, 18, 3000, 2, 300, 1, 400, 4), "new/1": Counters(success=1)}
    assert grown["head/1"].batch == 5
    assert grown["head/1"].mean_us("queue_ns") == pytest.approx(300 / 18 / 1000)


def test_counters_that_went_back_are_refused():
    with pytest.raises(LoadError, match="head/1 was loaded again"):
        difference({"head/1": Counters(success=5)}, {"head/1": Counters(success=4)})


def test_cores_are_cpu_seconds_a_second_and_others_are_the_rest():
    readings = [
        Usage(time=10.0, server_cpu=5.0, server_rss=100, client_cpu=1.0, client_rss=50, machine_cpu=20.0),
        Usage(time=12.0, server_cpu=6.0, server_rss=300, client_cpu=1.2, client_rss=40, machine_cpu=22.0),
        Usage(time=14.0, server_cpu=8.0, server_rss=200, client_cpu=1.4, client_rss=60, machine_cpu=26.0),
    ]
    used = cores_and_memory(readings)
    assert used["server_cores"] == pytest.approx(0.75)
    assert used["client_cores"] == pytest.approx(0.1)
    assert used["other_cores"] == pytest.approx(0.65)
    assert (used["server_rss"], used["client_rss"], used["host_cpu"]) == (300, 60, None)


def test_the_report_names_what_is_unstable_failed_and_found(lines, make_window, make_line, tmp_path):
    broken = make_line(Open(40.0), [make_window([0.1] * 9, 5.0, {"deadline": 7})] * 3, unanswered=12)
    broken["messages"] = {"deadline": "no answer within 30 s"}
    lines.append(broken)
    rows = rows_of(lines)
    text = write_report(rows, lines, 0.2, tmp_path).read_text()
    assert "**20 images/s** is the highest rate measured" in text
    assert "40 images/s (errors, p99 100 ms) did not" in text
    assert "| no, 4 windows |" in text
    assert "| 40 images/s | deadline | 21 | no answer within 30 s |" in text
    assert "| `head_mld` | 300 | 3.00 | 7.00 | 0.02 | 9.00 | 0.10 | 16.50 |" in text
    assert "abc1234" in text and "two cores" in text


def test_a_picture_is_drawn_of_what_there_is(lines, tmp_path):
    rows = rows_of(lines)
    for number, some in enumerate((rows, rows[:2], rows[2:])):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert [path.name for path in draw_figures(some, 0.2, folder)] == ["load.png", "load.svg"]
        assert all(path.stat().st_size > 1000 for path in folder.iterdir())
    svg = [(tmp_path / str(number) / "load.svg").read_text() for number in range(3)]
    assert [text.count('<g id="axes_') for text in svg] == [4, 2, 2]
    assert svg[1] != svg[2]
    assert draw_figures([], None, tmp_path) == []
