"""Measurements of speed: the arithmetic, with clocks of the test's own, and the bytes that are counted."""

from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from glowlib.experiments import speed
from glowlib.experiments.speed import Case, all_cases, build, measure, peak_memory, prepare, readable, summarise
from glowlib.networks.base import parameter_count

RESULTS = Path(__file__).parents[2] / "results" / "speed"
FORWARD = Case("gcunet-small", "small", "forward")
STEP = Case("gcunet-small", "small", "train step")


def test_a_case_takes_its_median_and_its_share_of_the_peak_around_it():
    runs = [(2.0, 100.0), (4.0, 30.0), (1.0, 80.0)]
    row = summarise(FORWARD, runs, gflop=60.0)
    assert (row["seconds"], row["low"], row["high"], row["rounds"], row["peak"]) == (2.0, 1.0, 4.0, 3, 80.0)
    assert row["share"] == pytest.approx(60 / 4 / 30)  # of 0.3, 0.5 and 0.75 the middle one
    assert row["gflop"] == 60.0


def test_a_training_step_has_no_share():
    assert not {"share", "gflop"} & set(summarise(STEP, [(2.0, 100.0)], gflop=60.0))


def test_seconds_are_the_clocks(monkeypatch):
    clock = iter([10.0, 12.5])
    events = []
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: events.append("clock") or next(clock)))
    assert speed.seconds(lambda: events.append("task"), "cpu") == 2.5
    assert events == ["clock", "task", "clock"]


@pytest.mark.parametrize(
    ("takes", "calls", "median"),
    [([2.0], 1, 2.0), ([0.5, 0.1, 0.9], 3, 0.5), ([0.3, 0.1, 0.1, 0.1, 0.2], 5, 0.1)],
)
def test_short_tasks_are_called_more_than_once(takes, calls, median, monkeypatch):
    given = iter([*takes, 9.0])
    monkeypatch.setattr(speed, "seconds", lambda task, device: next(given))
    assert speed.median_time(None, "cpu") == median
    assert len(list(given)) == 1 + len(takes) - calls


def test_the_peak_is_the_rate_of_a_matrix_product(monkeypatch):
    monkeypatch.setattr(speed, "PEAK_SIDE", 1000)
    monkeypatch.setattr(speed, "seconds", lambda task, device: task().shape == (1000, 1000) and 0.5)
    assert speed.peak_rate(FORWARD) == 4.0


def test_the_table(monkeypatch):
    """Each round of each case: a warm-up, a peak, the time, a peak; memory once."""
    events = []
    monkeypatch.setattr(speed, "build", lambda case: None)
    monkeypatch.setattr(speed, "prepare", lambda case, model: lambda: events.append("call"))
    peaks, times = iter([80.0, 120.0, 150.0, 150.0] * 2), iter([2.0, 8.0, 1.0, 3.0])
    monkeypatch.setattr(speed, "peak_rate", lambda case: events.append("peak") or next(peaks))
    monkeypatch.setattr(speed, "median_time", lambda task, device: events.append("time") or next(times))
    monkeypatch.setattr(speed, "peak_memory", lambda task, device: events.append("memory") or 5e6)
    monkeypatch.setattr(speed, "published_gflop", lambda case: 100.0)
    table = measure([FORWARD, STEP], rounds=2, progress=False)
    once = ["call", "peak", "time", "peak"]
    assert events == [*once, "memory", *once, "memory", *once, *once]
    forward, step = table.itertuples()
    assert (forward.seconds, forward.low, forward.high, forward.peak) == (1.5, 1.0, 2.0, 100.0)
    assert forward.share == pytest.approx((100 / 2 / 100 + 100 / 1 / 100) / 2)
    assert (step.seconds, step.peak, step.memory, step.rounds) == (5.5, 150.0, 5.0, 2)
    assert pd.isna(step.share)
    assert len(readable(table).to_markdown(index=False).splitlines()) == 4


def test_readable_numbers():
    row = {"model": "a", "task": "forward", "form": "kit", "precision": "float32"}
    table = pd.DataFrame([row | {"seconds": 0.5623, "low": 0.5479, "high": 0.5767, "share": 0.744, "memory": 95.2}])
    shown = readable(table).iloc[0]
    assert shown["seconds"] == "0.562 (0.548 to 0.577)"
    assert (shown["share of peak"], shown["memory, MB"]) == ("74%", "95")


def test_a_training_step_changes_the_weights_and_a_forward_pass_does_not():
    for case in (FORWARD, STEP):
        model = build(case)
        before = [p.detach().clone() for p in model.parameters()]
        prepare(case, model)()
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)) is (case is FORWARD)
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(("form", "entered"), [("kit", 0), ("reference", 1)])
@pytest.mark.parametrize("task", speed.TASKS)
def test_the_reference_implementation_computes_where_it_is_meant(form, entered, task, monkeypatch):
    count = []

    @contextmanager
    def recorded():
        count.append(1)
        yield

    monkeypatch.setattr(speed.fast, "disabled", recorded)
    prepare(Case("gcunet-small", "small", task, form), build(FORWARD))()
    assert len(count) == entered


def test_a_forward_pass_in_bfloat16_lowers_weights_and_a_training_step_does_not():
    kinds = {}
    for task in speed.TASKS:
        case = Case("gcunet-small", "small", task, precision="bfloat16")
        model = build(case)
        prepare(case, model)
        kinds[task] = {p.dtype for p in model.parameters()}
    assert kinds == {"forward": {torch.float32, torch.bfloat16}, "train step": {torch.float32}}


def test_operations_are_those_of_the_published_form():
    assert speed.published_gflop(Case("gcunet-paper", "paper", "forward")) == pytest.approx(10.5, rel=0.005)


def test_shapes():
    assert FORWARD.shape == (1, 3, 256, 256)
    assert Case("sglownet-small", "small", "train step").shape == (8, 3, 64, 64)
    assert Case("sglownet-paper", "paper", "train step").shape == (1, 3, 256, 256)


def test_every_network_is_measured_and_the_reference_implementation_at_published_size():
    cases = all_cases("cpu")
    assert len({case.model for case in cases}) == 8
    assert {(case.size, case.task) for case in cases if case.form == "reference"} == {
        ("paper", task) for task in speed.TASKS
    }
    assert len(set(cases)) == len(cases)


def test_memory_is_counted_to_the_byte():
    kept = torch.ones(1000)  # was there before: not counted

    def task():
        a = torch.ones(2**20)
        b = a.neg()
        del a
        c = torch.ones(2**18)  # in the place of a: no higher than a and b
        return b, c, kept

    assert peak_memory(task, "cpu") == 2 * 4 * 2**20
    assert peak_memory(task, "cpu") == 2 * 4 * 2**20


def test_a_training_step_holds_all_gradients_at_once():
    held = {}
    for case in (FORWARD, STEP):
        model = build(case)
        task = prepare(case, model)
        task()
        held[case] = peak_memory(task, "cpu")
    gradients = 4 * parameter_count(model)
    restored = 4 * 3 * 256**2
    assert restored < held[FORWARD] < held[STEP]
    assert held[STEP] > gradients


def test_the_committed_table_holds_every_case(monkeypatch):
    monkeypatch.setattr(speed, "has_bfloat16", lambda: True)
    table = pd.read_csv(RESULTS / "speed_cpu.csv")
    assert list(table.columns) == speed.SETTINGS + speed.MEASURED
    assert [tuple(row) for row in table[speed.SETTINGS].to_numpy()] == [astuple(case) for case in all_cases("cpu")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--rounds", "0"], "--rounds must be at least 1, not 0"), (["--device", "meta"], "meta")],
)
def test_bad_options_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_ratios_to_other_runtimes():
    """Against the faster of them on the plain form, round by round."""
    times = {
        ("kit", "optimised"): [1.0, 2.0, 4.0],
        ("onnxruntime", "plain"): [3.0, 3.0, 3.0],
        ("openvino", "plain"): [2.0, 2.0, 6.0],
        ("onnxruntime", "optimised"): [1.0, 1.0, 1.0],
        ("openvino", "optimised"): [0.5, 0.5, 2.0],
    }
    rows = [("net", *key, number, s) for key, took in times.items() for number, s in enumerate(took)]
    table = speed.engine_ratios(pd.DataFrame(rows, columns=["model", "engine", "form", "round", "seconds"]))
    assert list(table["kit, s"]) == ["2"]
    assert list(table["openvino plain, s"]) == ["2"]
    assert list(table["ratio of the kit"]) == ["1.50 (1.25 to 1.75)"]  # 2/1, 2/2, 6/4
    assert list(table["ratio of the best backend"]) == ["4.00 (3.50 to 4.00)"]  # OpenVINO: 2/0.5, 2/0.5, 6/2
