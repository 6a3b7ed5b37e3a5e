"""Measurements of speed: what is counted, what is refused. The figures themselves depend on the machine."""

import sys
import time

import pandas as pd
import pytest
import torch

from glowlib.errors import KitError
from glowlib.experiments import speed
from glowlib.experiments.speed import Case, Others, Traffic, all_cases, measure, memory, readable, seconds, spell

FORWARD = Case("gcunet-small", "small", "forward")


@pytest.fixture
def quiet(monkeypatch):
    """Tests run beside each other: what others take is left out of account."""
    monkeypatch.setattr(speed, "refuse_if_busy", lambda share: None)


def test_the_table(quiet, tmp_path):
    cases = [FORWARD, Case("gcunet-small", "small", "forward", "plain"), Case("gcunet-small", "small", "train step")]
    table = measure(cases, rounds=3, progress=False)
    assert (table["low"] <= table["seconds"]).all()
    assert (table["seconds"] <= table["high"]).all()
    kit, plain, step = table.itertuples()
    assert kit.gflop == plain.gflop > 0
    assert kit.share == pytest.approx(kit.gflop / kit.seconds / kit.peak, rel=0.9)
    assert kit.megabytes < plain.megabytes  # merged products read and write less
    assert pd.isna(step.share)
    table["memory"] = 1.0
    assert len(readable(table).to_markdown(index=False).splitlines()) == 5


def test_a_training_step_changes_the_weights_and_a_forward_pass_does_not():
    model, _ = FORWARD.network()
    before = [p.detach().clone() for p in model.parameters()]
    FORWARD.prepare()()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    Case("gcunet-small", "small", "train step").prepare()()
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_shapes():
    assert FORWARD.shape() == (1, 3, 256, 256)
    assert Case("sglownet-small", "small", "picture").shape() == (1, 3, 512, 768)
    assert Case("sglownet-small", "small", "train step").shape() == (8, 3, 64, 64)
    assert Case("sglownet-paper", "paper", "train step").shape() == (1, 3, 256, 256)
    assert Case("sglownet-small", "small", "square 724").shape() == (1, 3, 724, 724)


def test_every_network_is_measured_and_the_yardstick_at_published_size():
    cases = all_cases("cpu")
    assert len({case.model for case in cases}) == 8
    assert {case.size for case in cases if case.form == "plain"} == {"paper"}
    assert len(set(cases)) == len(cases)


def test_traffic_by_hand():
    a, b = torch.ones(10, 20), torch.ones(20, 30)
    with Traffic() as counted:
        (a @ b).T[:5].unflatten(1, (2, 5))
    assert counted.bytes == 4 * (200 + 600 + 300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_a_training_step_is_more_than_of_a_forward_pass():
    forward, step = memory(FORWARD), memory(Case("gcunet-small", "small", "train step"))
    assert 1 < forward < step < 1000


def test_a_busy_machine_is_refused(monkeypatch):
    monkeypatch.setattr(Others, "share", lambda self: 0.42)
    with pytest.raises(KitError, match="other processes take 42% of the machine: nothing was kept"):
        measure([FORWARD], rounds=1, progress=False)


def test_own_work_is_not_that_of_others():
    others = Others()
    others.before = (others.before[0] - 10, others.before[1], others.before[2])  # as if ten seconds had passed
    own = others.own.cpu_times()
    monkey = (time.perf_counter(), others.before[1] + 5.0, own.user + own.system + 5.0)
    others.now = lambda: monkey
    assert others.share() == pytest.approx(0, abs=0.01)


def test_seconds_are_seconds():
    assert 0.05 <= seconds(lambda: time.sleep(0.05), "cpu") < 1


@pytest.mark.parametrize(
    ("takes", "calls", "median"),
    [([2.0], 1, 2.0), ([0.5, 0.1, 0.9], 3, 0.5), ([0.3, 0.1, 0.1, 0.1, 0.2], 5, 0.1)],
)
def test_short_tasks_are_called_more_than_once(takes, calls, median, monkeypatch):
    given = iter([*takes, 9.0])
    monkeypatch.setattr(speed, "seconds", lambda task, device: next(given))
    assert spell(None, "cpu") == median
    assert len(list(given)) == 1 + len(takes) - calls


def test_each_task_is_warmed_up_in_each_round(quiet, monkeypatch):
    events = []
    monkeypatch.setattr(Case, "prepare", lambda case: lambda: events.append("call"))
    monkeypatch.setattr(speed, "peak", lambda case: events.append("peak") or 1.0)
    monkeypatch.setattr(speed, "spell", lambda task, device: events.append("spell") or 1.0)
    measure([Case("gcunet-small", "small", "picture")], rounds=2, progress=False)
    assert events == ["call", "peak", "spell", "peak"] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--rounds", "0"], "--rounds is a number from 1 up, not 0"), (["--device", "meta"], "meta")],
)
def test_bad_options_are_one_line(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        speed.main(arguments)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
