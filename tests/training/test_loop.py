"""Training: a function of its configuration alone, wherever it is interrupted; errors that leave the run as it was."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import NETWORKS, RECIPE, STEPS
from torch.overrides import TorchFunctionMode

from glowlib import files as kit_files
from glowlib.data.image_files import read_picture, write_png
from glowlib.errors import KitError
from glowlib.networks import create_model
from glowlib.networks.gcunet import GCUNet
from glowlib.networks.sunet import SUNet
from glowlib.training import load_profile, loop, plan, run_folder, state, step, train
from glowlib.training.__main__ import main
from glowlib.training.optim import initial_network
from glowlib.training.run_folder import lock, mean_psnr


def run(profile, network, folder, **changes):
    return train(profile, network, out=profile.parent / folder, device="cpu", **changes)


def content(folder):
    """All that must not depend on interruptions: weights, description, and the log except for its speed."""
    rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in log(folder)]
    return (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_text(), rows


def log(folder):
    return list(csv.DictReader((folder / "log.csv").open()))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_failed_pass_does_not_count_in_batch_norm(quiet_profile, monkeypatch):
    """The memory is full at the end of the first forward pass: the result is that of smaller micro-batches."""
    wanted = run(quiet_profile, "gcunet", "whole", batch_size=4, micro_batch=2)
    forward, failed = GCUNet.forward, []

    def full_once(self, image):
        result = forward(self, image)
        if self.training and not failed:
            failed.append(1)
            raise torch.OutOfMemoryError
        return result

    monkeypatch.setattr(GCUNet, "forward", full_once)
    alike(run(quiet_profile, "gcunet", "failed", batch_size=4), wanted)


@pytest.mark.parametrize("network", NETWORKS)
def test_interrupted_after_every_step_is_uninterrupted(network, profile):
    whole = run(profile, network, "whole")
    for _ in range(STEPS):
        cut = run(profile, network, "cut", minutes=0)
    assert content(cut) == content(whole)
    rows = log(whole)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4]
    assert all(0 < float(row["loss"]) < 2 for row in rows)
    assert [row["psnr_sigma25"] != "" for row in rows] == [False, True, False, True]


def test_bfloat16_resumes_alike(profile):
    whole = run(profile, "sunet", "whole", precision="bfloat16")
    for _ in range(STEPS):
        cut = run(profile, "sunet", "cut", precision="bfloat16", minutes=0)
    assert content(cut) == content(whole)
    assert content(whole)[0] != content(run(profile, "sunet", "float32"))[0]


def test_seed_decides(profile):
    first, again, other = (run(profile, "gcunet", f, seed=s) for f, s in (("a", 0), ("b", 0), ("c", 1)))
    assert content(first) == content(again)
    assert content(first)[0] != content(other)[0]


def test_killed_at_every_rename(profile, monkeypatch):
    """Cut before each file takes its name, one after the other: no state in between loses the run."""
    replace = Path.replace
    renames = []
    monkeypatch.setattr(Path, "replace", lambda self, to: renames.append(Path(to).name) or replace(self, to))
    whole = run(profile, "gcunet", "whole", steps=3)
    total = len(renames)
    assert {"last.pt", "previous.pt", "new.pt", "model.safetensors", "config.json", "log.csv"} <= set(renames)
    for fatal in range(total):
        left = iter(range(fatal, -1, -1))

        def cut_at(self, to, left=left):
            if next(left, 1) == 0:
                raise KeyboardInterrupt
            return replace(self, to)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", cut_at)
            with pytest.raises(KeyboardInterrupt):
                run(profile, "gcunet", f"cut{fatal}/run", steps=3)
        cut = run(profile, "gcunet", f"cut{fatal}/run", steps=3)
        assert content(cut) == content(whole), f"cut before {renames[fatal]}, rename {fatal}"


KILLED = """
import os, random, signal, sys, time, torch
from glowlib.training import loop
from glowlib.training.__main__ import main
torch.set_num_threads(1)
loop.LOG_EVERY = 1
random.seed(sys.argv.pop())
killed = 0
while killed < 5:
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        main()
        os._exit(0)
    time.sleep(random.uniform(0.1, 0.4))
    os.kill(child, signal.SIGKILL)
    killed += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
main()
"""


@pytest.mark.parametrize("network", NETWORKS)
def test_killed_five_times_at_any_moment(network, profile):
    """kill -9 at random times: the weights are those of the uninterrupted run, bit for bit."""
    steps = 30
    whole = run(profile, network, "whole", steps=steps, checkpoint_every=3)
    cut = profile.parent / "killed" / "run"
    command = [sys.executable, "-c", KILLED, "--profile", profile, "--model", network, "--out", cut, "--device", "cpu"]
    command += ["--steps", steps, "--checkpoint_every", 3, network]
    ended = subprocess.run([*map(str, command)], env=os.environ, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    assert content(cut) == content(whole)


def test_killed_while_saving(profile, monkeypatch):
    """The second checkpoint is cut in half before it takes its name: the first one carries on."""
    whole = run(profile, "sglownet", "whole")
    save, saved = torch.save, []

    def save_half(state, path):
        save(state, path)
        saved.append(path)
        if len(saved) == 2:
            os.truncate(path, os.path.getsize(path) // 2)
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_half)
        with pytest.raises(KeyboardInterrupt):
            run(profile, "sglownet", "cut")
    assert torch.load(profile.parent / "cut" / "last.pt")["step"] == 1
    assert content(run(profile, "sglownet", "cut")) == content(whole)


def test_a_full_disk_is_one_line_and_keeps_what_was(profile, monkeypatch):
    folder = run(profile, "gcunet", "run", minutes=0)
    before = files(folder)

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(KitError, match="No space left on device") as caught:
            run(profile, "gcunet", "run", minutes=0)
    assert "\n" not in str(caught.value)
    after = files(folder)
    assert all(after[name] == before[name] for name in before if name != "log.csv")
    assert not any(name.endswith(".part") for name in after)
    assert content(run(profile, "gcunet", "run")) == content(run(profile, "gcunet", "whole"))


def test_a_truncated_checkpoint_falls_back(profile, capsys):
    whole = run(profile, "gcunet", "whole")
    for _ in range(2):
        cut = run(profile, "gcunet", "cut", minutes=0)
    os.truncate(cut / "last.pt", (cut / "last.pt").stat().st_size // 2)
    assert content(run(profile, "gcunet", "cut")) == content(whole)
    assert "last.pt is unreadable" in capsys.readouterr().out


def test_no_readable_checkpoint_is_an_error(profile):
    cut = run(profile, "gcunet", "cut", minutes=0)
    (cut / "last.pt").write_bytes(b"truncated")
    with pytest.raises(KitError, match="no readable checkpoint"):
        run(profile, "gcunet", "cut")


def test_a_finished_run_stays(profile):
    folder = run(profile, "gcunet", "whole")
    before = files(folder)
    run(profile, "gcunet", "whole")
    assert files(folder) == before


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"steps": 9}, {"seed": 5}, {"loss": "charbonnier"}], ids=str)
def test_a_changed_configuration_is_refused_by_name(change, profile):
    folder = run(profile, "gcunet", "run", minutes=0)
    before = files(folder)
    ((key, value),) = change.items()
    with pytest.raises(KitError, match=f"{key} = {RECIPE.get(key, 'l1' if key == 'loss' else 0)}, not {value}"):
        run(profile, "gcunet", "run", **change)
    assert files(folder) == before


def test_another_network_in_the_folder_is_refused(profile):
    run(profile, "gcunet", "run", minutes=0)
    with pytest.raises(KitError, match="gcunet"):
        run(profile, "sunet", "run")


def test_a_loss_that_is_not_finite_keeps_what_was(profile, monkeypatch):
    folder = run(profile, "sunet", "run", minutes=0)
    before = files(folder)
    monkeypatch.setattr(torch.nn.functional, "l1_loss", lambda a, b: (a - b).mean() * torch.nan)
    with pytest.raises(KitError, match="loss is nan near step 2.*step 1") as caught:
        run(profile, "sunet", "run")
    assert "\n" not in str(caught.value)
    assert files(folder) == before


def test_a_learning_rate_that_diverges_is_an_error(profile):
    with pytest.raises(KitError, match="the loss is"):
        run(profile, "sunet", "run", lr=1e30, clip=0.0, steps=20, checkpoint_every=100)
    with pytest.raises(KitError, match="exceeds the range of half precision, so the weights are not exported"):
        run(profile, "sunet", "saved", lr=1e30, clip=0.0, steps=20)
    assert not (profile.parent / "saved" / "last.pt").exists()


def test_an_unreadable_image_is_named(profile):
    (profile.parent / "data" / "tiny" / "3.png").write_text("no picture")
    with pytest.raises(KitError, match="3.png"):
        run(profile, "gcunet", "run")


def test_data_that_does_not_suffice(profile, monkeypatch):
    with pytest.raises(KitError, match="hold out 6"):
        run(profile, "gcunet", "run", hold_out=6)
    with pytest.raises(KitError, match="0.png of tiny is smaller than the crop of 65"):
        run(profile, "gcunet", "run", crop=65)
    with pytest.raises(KitError, match="absent"):
        run(profile, "gcunet", "run", data="absent")


def test_exported_files(profile):
    """Half-precision averaged weights, which describe themselves."""
    folder = run(profile, "sglownet", "run")
    state = torch.load(folder / "last.pt")
    description = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["glowlib"]) == description
    assert description["network"] == "sglownet"
    assert description["step"] == state["step"] == STEPS
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == state["ema"].keys()
    for name, tensor in state["ema"].items():
        assert torch.equal(weights[name], tensor.half() if tensor.is_floating_point() else tensor)
    assert any(not torch.equal(state["model"][name], tensor) for name, tensor in state["ema"].items())
    create_model(description["network"], **description["options"]).load_state_dict(weights)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_checkpoints_come_as_often_as_configured(every, profile, monkeypatch):
    """However often a row is logged."""
    monkeypatch.setattr(loop, "LOG_EVERY", 50)
    saved = []
    save = state.save_checkpoint
    monkeypatch.setattr(state, "save_checkpoint", lambda f, c: saved.append(c["step"]) or save(f, c))
    run(profile, "gcunet", "run", checkpoint_every=every)
    assert saved == sorted({*range(every, STEPS + 1, every), STEPS})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--profile", "absent", "--model", "sunet"], "unknown profile 'absent'"),
        (["--model", "absent"], "unknown model to train 'absent'"),
        (["--model", "sglownet", "--device", "nonsense"], "nonsense"),
    ],
)
def test_the_command_ends_with_one_line(arguments, named, capsys, profile):
    own = [] if "--profile" in arguments else ["--profile", str(profile)]
    with pytest.raises(SystemExit) as caught:
        main([*own, *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


# Several processes, less memory


@pytest.fixture
def quiet_profile(profile):
    """Without stochastic depth, whose random numbers depend on how a batch is shared."""
    values = yaml.safe_load(profile.read_text())
    for options in values["models"].values():
        options["drop_path_rate"] = 0.0
    profile.write_text(yaml.safe_dump(values))
    return profile


def alike(folder, other, tolerance=1e-5):
    """The same losses step by step, and the same scores."""
    for a, b in zip(log(folder), log(other), strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=tolerance)
        assert (a["psnr_sigma50"] == "") == (b["psnr_sigma50"] == "")
        if a["psnr_sigma50"]:
            assert float(a["psnr_sigma50"]) == pytest.approx(float(b["psnr_sigma50"]), abs=1e-3)


def command(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("network", ["sunet", "sglownet"])
def test_two_processes_are_one_with_twice_the_batch(network, quiet_profile):
    """PyTorch DDP over gloo: the batch is shared, BatchNorm's statistics are those of all of it."""
    whole = run(quiet_profile, network, "whole", batch_size=4)
    shared = quiet_profile.parent / "shared" / "run"
    torchrun = ("torch.distributed.run", "--standalone", "--nproc_per_node", 2, "-m", "glowlib.training")
    command(
        *torchrun, "--profile", quiet_profile, "--model", network, "--out", shared, "--device", "cpu", "--batch_size", 4
    )
    alike(shared, whole)
    assert distance(shared, whole) < 0.02 * moved(quiet_profile, network, whole)


def weights(folder):
    """The weights in a run's checkpoint as one vector, float64."""
    return torch.cat([t.double().flatten() for t in torch.load(folder / "last.pt")["model"].values()])


def distance(folder, other):
    return (weights(folder) - weights(other)).norm()


def moved(profile, network, folder):
    """How far a training has moved the weights from where they began."""
    _, _, options, config = plan(load_profile(profile), network)
    torch.manual_seed(config.seed)
    first = initial_network(network, options)
    return (weights(folder) - torch.cat([t.double().flatten() for t in first.state_dict().values()])).norm()


def test_a_batch_that_cannot_be_shared(profile, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(KitError, match="batch of 2 cannot be shared equally among 3"):
        run(profile, "sunet", "run")


def test_gradient_accumulation_without_batch_norm_is_the_same_training(quiet_profile, capsys):
    whole = run(quiet_profile, "sunet", "whole", batch_size=3)
    accumulated = run(quiet_profile, "sunet", "accumulated", batch_size=3, micro_batch=2)
    alike(accumulated, whole)
    assert distance(accumulated, whole) < 0.02 * moved(quiet_profile, "sunet", whole)
    assert "BatchNorm" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("network", ["gcunet", "glownet", "sglownet"])
def test_gradient_accumulation_with_batch_norm_differs_and_a_line_says_so(network, quiet_profile, capsys):
    whole = run(quiet_profile, network, "whole", batch_size=3)
    assert "BatchNorm" not in "".join(capsys.readouterr())
    accumulated = run(quiet_profile, network, "accumulated", batch_size=3, micro_batch=2)
    notes = [line for line in "".join(capsys.readouterr()).splitlines() if "BatchNorm" in line]
    assert len(notes) == 1
    assert "micro-batches of 2, not the batch of 3" in notes[0]
    assert distance(accumulated, whole) > 0.02 * moved(quiet_profile, network, whole)


def test_out_of_memory_halves_the_micro_batches(quiet_profile, monkeypatch, capsys):
    whole = run(quiet_profile, "sunet", "whole", batch_size=4)
    forward = SUNet.forward

    def small(self, image):
        if self.training and len(image) > 1:
            raise torch.OutOfMemoryError
        return forward(self, image)

    monkeypatch.setattr(SUNet, "forward", small)
    alike(run(quiet_profile, "sunet", "halved", batch_size=4), whole)
    out = capsys.readouterr()
    said = [line for line in (out.out + out.err).splitlines() if "out of memory" in line]
    assert [int(line.split("micro-batches of ")[1].split(";")[0]) for line in said] == [2, 1]

    def none(self, image):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(SUNet, "forward", none)
    with pytest.raises(KitError, match="--recompute"):
        run(quiet_profile, "sunet", "none")


@pytest.mark.parametrize("network", NETWORKS)
def test_activation_checkpointing_changes_nothing(network, profile):
    """Stochastic depth drops the same paths again, and BatchNorm counts once."""
    whole = run(profile, network, "whole")
    assert content(run(profile, network, "recomputed", recomputed=True)) == content(whole)


def test_frozen_statistics_are_those_of_the_start(profile):
    start = run(profile, "gcunet", "start") / "model.safetensors"
    before = load_file(start)
    frozen, moved = (
        load_file(run(profile, "gcunet", way, start=start, batch_norm=way, seed=1) / "model.safetensors")
        for way in ("frozen", "batch")
    )
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(frozen[name], before[name]) for name in statistics)
    assert not any(torch.equal(moved[name], before[name]) for name in statistics)
    assert not torch.equal(frozen["norm.weight"], before["norm.weight"])


def test_compiled_training_is_the_same_training(quiet_profile, monkeypatch):
    """With PyTorch's tracing and without its code generator, which takes minutes."""
    modes, trace = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, mode: modes.append(mode) or trace(net, backend="aot_eager"))
    whole = run(quiet_profile, "gcunet", "whole")
    alike(run(quiet_profile, "gcunet", "compiled", compiled="default"), whole, 1e-4)
    assert modes == ["default"]


def test_a_network_that_cannot_be_compiled_is_one_line(profile, monkeypatch):
    def fails(graph, inputs):
        raise ZeroDivisionError("integer division or modulo by zero")

    trace = torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, mode: trace(net, backend=fails))
    with pytest.raises(KitError, match="cannot compile this network here. Train without --compile"):
        run(profile, "gcunet", "run", compiled="default")


def test_fine_tuning_begins_with_the_trained_weights(profile):
    values = yaml.safe_load(profile.read_text())
    values["fine_tuning"] = {"lr": 1e-6, "steps": 2, "sigma": [50, 50]}
    profile.write_text(yaml.safe_dump(values))
    blind = run(profile, "gcunet", "blind")
    tuned = run(profile, "gcunet", "tuned", start=blind / "model.safetensors")
    description = json.loads((tuned / "config.json").read_text())
    assert description["name"] == "gcunet-nano-sigma50"
    assert description["training"]["sigma"] == [50, 50]
    assert description["start"].endswith("model.safetensors")
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tuned, blind))
    for n in theirs:  # two steps of 1e-6, and the rounding to half precision
        if n.endswith(("weight", "bias")):
            torch.testing.assert_close(ours[n].float(), theirs[n].float(), atol=5e-6, rtol=1e-3)
    with pytest.raises(KitError, match="another network"):
        run(profile, "sunet", "other", start=blind / "model.safetensors")


def test_the_best_weights_are_kept(profile):
    """With a learning rate that ruins the weights after the first validation, best.safetensors is from before."""
    folder = run(profile, "sunet", "run", steps=2)
    best = (folder / "best.safetensors").read_bytes()
    assert best == (folder / "model.safetensors").read_bytes()
    rows = []
    folder = run(profile, "sunet", "worse", steps=6, lr=0.5, warmup=0, clip=0.0, ema=0.0, watch=rows.append)
    scores = {int(row["step"]): mean_psnr(row) for row in rows[-1] if "psnr_sigma10" in row}
    with safe_open(folder / "best.safetensors", "pt") as file:
        assert json.loads(file.metadata()["glowlib"])["step"] == max(scores, key=scores.get)
    assert len(rows) == 6


def test_training_on_pairs(pairs, nano, tmp_path):
    values = {k: v for k, v in vars(pairs).items() if k in RECIPE or k == "pairs"} | {"warmup": 0, "epoch": 2}
    path = tmp_path / "pairs.yaml"
    path.write_text(yaml.safe_dump({"training": values, "models": {"nano": {"network": "gcunet", **options_of(nano)}}}))
    whole = run(path, "gcunet", "whole", hold_out=1, steps=4, checkpoint_every=1)
    for _ in range(4):
        cut = run(path, "gcunet", "cut", hold_out=1, steps=4, checkpoint_every=1, minutes=0)
    assert content(cut) == content(whole)
    rates = [row["lr"] for row in log(whole)]  # an epoch has two steps
    assert rates[0] == rates[1] != rates[2] == rates[3]
    with pytest.raises(KitError, match="31 pixels"):
        run(path, "gcunet", "small", hold_out=1, crop=16)


def options_of(nano):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in nano.items()}


# Other data, two trainings in one folder


def image_file(profile, name):
    return profile.parent / "data" / "tiny" / name


def test_changed_images_are_refused_by_what_changed(profile):
    """Pixels, number, and names of the validation images; the files' times and the store may change."""
    folder = run(profile, "gcunet", "run", minutes=0)
    before = files(folder)
    kept = {f"{i}.png": image_file(profile, f"{i}.png").read_bytes() for i in range(6)}
    write_png(image_file(profile, "1.png"), 255 - read_picture(image_file(profile, "1.png")))
    with pytest.raises(KitError, match="changed since .*names or pixels differ.*--out"):
        run(profile, "gcunet", "run")
    image_file(profile, "1.png").unlink()
    with pytest.raises(KitError, match="count was 6, and is 5"):
        run(profile, "gcunet", "run")
    image_file(profile, "9.png").write_bytes(kept["1.png"])
    with pytest.raises(KitError, match=r"held out was \['4.png', '5.png'\], and is \['5.png', '9.png'\]"):
        run(profile, "gcunet", "run")
    assert files(folder) == before
    image_file(profile, "9.png").unlink()
    image_file(profile, "1.png").write_bytes(kept["1.png"])
    assert content(run(profile, "gcunet", "run")) == content(run(profile, "gcunet", "whole"))


def test_a_checkpoint_that_does_not_record_its_images_is_continued_with_a_note(profile, capsys):
    folder = run(profile, "gcunet", "run", minutes=0)
    checkpoint = torch.load(folder / "last.pt")
    images = checkpoint["description"].pop("images")
    assert images["held_out"] == ["4.png", "5.png"]
    torch.save(checkpoint, folder / "last.pt")
    assert content(run(profile, "gcunet", "run")) == content(run(profile, "gcunet", "whole"))
    assert capsys.readouterr().out.count("does not record its training images") == 1
    assert torch.load(folder / "last.pt")["description"]["images"] == images


@pytest.mark.skipif(kit_files.fcntl is None, reason="no flock")
def test_a_second_training_in_a_folder_is_refused(profile, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_WAIT", 0)
    folder = run(profile, "gcunet", "run", minutes=0)
    before = files(folder)
    with lock(folder), pytest.raises(KitError, match="another training is running in .*run") as caught:
        run(profile, "gcunet", "run")
    assert "\n" not in str(caught.value)
    assert files(folder) == before
    run(profile, "gcunet", "run")


HOLDS = """
import sys, time
from pathlib import Path
from glowlib.training.run_folder import lock
with lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(kit_files.fcntl is None, reason="no flock")
def test_the_lock_of_a_killed_training_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_WAIT", 0)
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(KitError, match="another training"), lock(tmp_path):
                pass
        finally:
            process.kill()
        process.wait()
        with lock(tmp_path):
            assert list(tmp_path.iterdir()) == []


def test_a_platform_without_flock_locks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kit_files, "fcntl", None)
    with lock(tmp_path), lock(tmp_path):
        pass


# Devices


class NoFloat64(TorchFunctionMode):
    """Refuses what MPS refuses: float64 on the device. Tensors reach it by `to(device)`, or are made on it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.device)]
        result = function(*args, **kwargs)
        if device and isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


def test_no_float64_reaches_the_device(profile):
    """MPS has none. Validation, logging and checkpoints included."""
    with pytest.raises(TypeError, match="MPS"), NoFloat64():
        torch.zeros(1, dtype=torch.float64).to(torch.device("cpu"))
    with NoFloat64():
        folder = run(profile, "sglownet", "mps")
    assert content(folder) == content(run(profile, "sglownet", "cpu"))


def test_out_of_memory_elsewhere_is_one_line(profile, monkeypatch):
    """Such as when the optimiser allocates its moments; on CPUs and MPS it is a plain RuntimeError."""

    def full(*args, **kwargs):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(KitError, match="out of memory on cpu.*--micro_batch"):
        run(profile, "sunet", "run")


# Optimisers, growing crops


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_muon_resumes_alike(precision, profile):
    """With loss scaling, too: float16 has it."""
    given = {"optimizer": "muon", "precision": precision}
    whole = run(profile, "sglownet", "whole", **given)
    for _ in range(STEPS):
        cut = run(profile, "sglownet", "cut", minutes=0, **given)
    assert content(cut) == content(whole)
    assert torch.equal(weights(cut), weights(whole))
    checkpoint = torch.load(whole / "last.pt")
    assert (checkpoint["scaler"].get("scale", 1) > 1) == (precision == "float16")
    matrices, others = (
        [checkpoint["optimizer"]["state"][i] for i in group["params"]]
        for group in checkpoint["optimizer"]["param_groups"]
    )
    assert not any(entry["use_muon"] for entry in others)
    assert all(entry["use_muon"] or min(entry["exp_avg"].shape[:2]) < 4 for entry in matrices)  # too small for Muon
    assert any(entry["use_muon"] for entry in matrices)
    assert distance(whole, run(profile, "sglownet", "adamw", precision=precision)) > 0


def test_growing_crops_resume_alike(profile, monkeypatch):
    """Batches of 8 crops of 16 pixels, then 2 of 32; the colours augmented."""
    given = {"crop": 16, "batch_size": 8, "grow_at": (2,), "grow_to": (32,)}
    given |= {"share_permuted": 0.5, "share_saturation": 0.5}
    shapes = []
    call = step.TrainingStep.__call__
    monkeypatch.setattr(step.TrainingStep, "__call__", lambda s, x, y: shapes.append(tuple(x.shape)) or call(s, x, y))
    whole = run(profile, "gcunet", "whole", **given)
    assert shapes == [(8, 3, 16, 16)] * 2 + [(2, 3, 32, 32)] * 2
    for _ in range(STEPS):
        cut = run(profile, "gcunet", "cut", minutes=0, **given)
    assert content(cut) == content(whole)


# Mistakes


def test_a_home_folder_is_found(profile, monkeypatch):
    monkeypatch.setenv("HOME", str(profile.parent))
    folder = train("~/tiny.yaml", "gcunet", out="~/run", device="cpu", until=1)
    assert folder == profile.parent / "run"
    tuned = train("~/tiny.yaml", "gcunet", out="~/tuned", device="cpu", until=1, start="~/run/model.safetensors")
    assert (tuned / "last.pt").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"until": 0}, "--until is a step from 1 up"),
        ({"minutes": float("nan")}, "--minutes is a number from 0 up"),
        ({"minutes": -1}, "--minutes is a number from 0 up"),
        ({"micro_batch": 0}, "--micro_batch is a number from 1 up"),
        ({"seed": 2**32}, "seed is from 0 to"),
        ({"sigma": ("low", "high")}, "sigma should be a list, each a number"),
        ({"learning_rate": 1.0}, "unknown key 'learning_rate'"),
        ({"compiled": "nonsense"}, "--compile"),
    ],
)
def test_values_out_of_range_are_one_line(option, said, profile):
    with pytest.raises(KitError, match=said) as caught:
        run(profile, "sunet", "run", **option)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["meta", "hpu", "nonsense", "cpu:x", "cuda:99"])
def test_odd_devices_are_one_line(device, profile):
    with pytest.raises(KitError, match=f"cannot use device '{device}'") as caught:
        train(profile, "sunet", out=profile.parent / "run", device=device)
    assert "\n" not in str(caught.value)
    assert not (profile.parent / "run").exists()


def test_a_folder_that_cannot_be_made_is_one_line(profile):
    (profile.parent / "file").write_text("in the way")
    with pytest.raises(KitError, match="cannot write in"):
        run(profile, "sunet", "file/run")


@pytest.mark.parametrize("damage", [b"step,loss\n1,2\n", b"\xff\xfe", b"step\nx\n", b"step,loss,lr\n1"])
def test_a_damaged_log_is_one_line(damage, profile):
    folder = run(profile, "gcunet", "run", minutes=0)
    (folder / "log.csv").write_bytes(damage)
    with pytest.raises(KitError, match="cannot read .*log.csv.*move it away") as caught:
        run(profile, "gcunet", "run")
    assert "\n" not in str(caught.value)
    (folder / "log.csv").unlink()
    assert run(profile, "gcunet", "run") == folder


@pytest.mark.parametrize("damage", ["no description", "other shapes", "no state", "x", -5, 10**9])
def test_a_checkpoint_of_another_kind_is_one_line(damage, profile):
    folder = run(profile, "gcunet", "run", minutes=0)
    checkpoint = torch.load(folder / "last.pt")
    if damage == "no description":
        del checkpoint["description"]
    elif damage == "other shapes":
        checkpoint["model"] = {n: t[..., None] for n, t in checkpoint["model"].items()}
    elif damage != "no state":
        checkpoint["step"] = damage
    else:
        checkpoint = [1, 2]
    torch.save(checkpoint, folder / "last.pt")
    with pytest.raises(KitError, match="checkpoint does not fit") as caught:
        run(profile, "gcunet", "run")
    assert "\n" not in str(caught.value)
