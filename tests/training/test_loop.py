"""Training: a function of its configuration alone, wherever it is cut; errors that leave the run as it was."""

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from skimage import data

from glowlib import training
from glowlib.training.step import recompute
from glowlib.data.crops import NoisyCrops, PictureStore, PreparedPairs, batches, pairs_folder, read_pairs
from glowlib.data.datasets import DATA_VARIABLE
from glowlib.device import choose_device
from glowlib.errors import KitError
from glowlib.data.images import write_png
from glowlib.networks import create_model
from glowlib.data.paper_pairs import prepare
from glowlib.training.estimate import measure
from glowlib.training.profiles import TrainingConfig, load_profile
from glowlib.training.optim import Schedule, charbonnier, make_optimizer, plan
from glowlib.training.run_folder import mean_psnr
from glowlib.networks.sunet import SUNet
from glowlib.training.loop import train

NETWORKS = ("sunet", "gcunet", "glownet", "sglownet")
STEPS = 4
RECIPE = {
    "data": "tiny",
    "hold_out": 2,
    "steps": STEPS,
    "batch_size": 2,
    "crop": 32,
    "lr": 1e-3,
    "warmup": 2,
    "weight_decay": 0.01,
    "precision": "float32",
    "validate_every": 2,
    "checkpoint_every": 1,
}


@pytest.fixture
def profile(tmp_path, monkeypatch, nano):
    """A profile that trains each nano network on six crops, logging every step; dropped paths included."""
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for i in range(6):
        picture = (data.astronaut, data.chelsea, data.coffee)[i % 3]()[40 * i :][:64, 100:164]
        write_png(folder / f"{i}.png", picture)
    monkeypatch.setenv(DATA_VARIABLE, str(folder.parent))
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    options = {**nano, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 2], "drop_path_rate": 0.3, "training_size": 32}
    models = {f"{name}-nano": {"network": name, **options} for name in NETWORKS}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"training": RECIPE, "models": models}))
    return path


def run(profile, network, folder, **changes):
    return train(profile, network, out=profile.parent / folder, device="cpu", **changes)


def content(folder):
    """What must not depend on interruptions: weights, description, and the log but for its speed."""
    rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in log(folder)]
    return (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_text(), rows


def log(folder):
    return list(csv.DictReader((folder / "log.csv").open()))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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
from glowlib import training
from glowlib.training.step import recompute
torch.set_num_threads(1)
training.LOG_EVERY = 1
random.seed(sys.argv.pop())
killed = 0
while killed < 5:
    child = os.fork()
    if child == 0:
        sys.stderr = open(os.devnull, "w")
        training.main()
        os._exit(0)
    time.sleep(random.uniform(0.1, 0.4))
    os.kill(child, signal.SIGKILL)
    killed += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
training.main()
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


def test_torn_checkpoint_falls_back(profile, capsys):
    whole = run(profile, "gcunet", "whole")
    for _ in range(2):
        cut = run(profile, "gcunet", "cut", minutes=0)
    os.truncate(cut / "last.pt", (cut / "last.pt").stat().st_size // 2)
    assert content(run(profile, "gcunet", "cut")) == content(whole)
    assert "last.pt is unreadable" in capsys.readouterr().out


def test_no_readable_checkpoint_is_an_error(profile):
    cut = run(profile, "gcunet", "cut", minutes=0)
    (cut / "last.pt").write_bytes(b"torn")
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


def test_a_rate_that_explodes_is_an_error(profile):
    with pytest.raises(KitError, match="the loss is"):
        run(profile, "sunet", "run", lr=1e30, clip=0.0, steps=20)


def test_an_unreadable_picture_is_named(profile):
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
def test_checkpoints_come_as_often_as_asked(every, profile, monkeypatch):
    """Whatever the rhythm of the log."""
    monkeypatch.setattr(training, "LOG_EVERY", 50)
    saved = []
    save = training.save_checkpoint
    monkeypatch.setattr(training, "save_checkpoint", lambda f, state: saved.append(state["step"]) or save(f, state))
    run(profile, "gcunet", "run", checkpoint_every=every)
    assert saved == sorted({*range(every, STEPS + 1, every), STEPS})


def test_rates():
    """Linear from lr / warmup, never 0; then a cosine to min_lr."""
    config = TrainingConfig(steps=50, warmup=10, lr=1e-3, min_lr=1e-5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = Schedule(optimizer, config)
    rates = []
    for step in range(config.steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[:10] == pytest.approx([1e-4 + 9e-4 * step / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([1e-5 + 0.495e-3 * (1 + math.cos(math.pi * t / 40)) for t in range(40)])


@pytest.mark.parametrize("steps", [30, 50, 80, 100])
def test_rates_of_restarts(steps):
    """What comes before one does not depend on what follows; a run that ends before it has none."""
    config = TrainingConfig(steps=steps, warmup=10, lr=1e-3, min_lr=1e-5, restarts=(30, 60), restart_lr=(4e-4, 2e-4))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = Schedule(optimizer, config)
    rates = []
    for step in range(steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])

    def cosine(top, count):
        return [1e-5 + (top - 1e-5) / 2 * (1 + math.cos(math.pi * t / count)) for t in range(count)]

    assert rates[:10] == pytest.approx([1e-4 + 9e-4 * step / 10 for step in range(10)])
    assert rates[10:30] == pytest.approx(cosine(1e-3, 20))
    assert rates[30:60] == pytest.approx(cosine(4e-4, max(0, min(steps, 60) - 30)))
    assert rates[60:] == pytest.approx(cosine(2e-4, max(0, steps - 60)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"restarts": (10,), "restart_lr": (1e-3,)}, "rising steps after the warm-up"),
        ({"restarts": (30, 20), "restart_lr": (1e-3, 1e-3)}, "rising steps after the warm-up"),
        ({"restarts": (30,)}, "a rate above 0 for each"),
        ({"restarts": (30,), "restart_lr": (0,)}, "a rate above 0 for each"),
        ({"restarts": (30,), "restart_lr": (1e-3,), "restart_drawn": (0.1, 0.2)}, "a share for each"),
    ],
)
def test_restarts_that_do_not_fit_are_refused(change, said):
    with pytest.raises(KitError, match=said):
        TrainingConfig(steps=50, warmup=10, **change)


def test_what_decays(nano):
    model = create_model("sglownet", **nano)
    decayed, kept = make_optimizer(model, TrainingConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed["params"])
    tables = [p for p in kept["params"] if names[id(p)].endswith("bias_table")]
    assert len(tables) == 2 + 1 + 1 + 1 + 1 + 1 + 2
    assert all(p.ndim == 1 or p.shape[1:] == (1, 1) or names[id(p)].endswith("bias_table") for p in kept["params"])


def test_charbonnier_by_hand():
    a, b = torch.tensor([0.0, 0.3]), torch.tensor([0.0, 0.0])
    assert charbonnier(a, b).item() == pytest.approx((0.001 + math.sqrt(0.09 + 1e-6)) / 2)


def test_unusable_device_is_one_line():
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(KitError, match=device) as caught:
            choose_device(device)
        assert "\n" not in str(caught.value)


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
        training.main([*own, *arguments])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert named in error


# Several processes, less memory


@pytest.fixture
def quiet_profile(profile):
    """Without dropped paths, whose random numbers depend on how a batch is shared."""
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
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (shared, whole))
    assert all(torch.allclose(ours[n].float(), theirs[n].float(), atol=1e-3) for n in theirs)


def test_a_batch_that_cannot_be_shared(profile, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(KitError, match="batch of 2 cannot be shared equally among 3"):
        run(profile, "sunet", "run")


def test_a_batch_in_parts(quiet_profile):
    whole = run(quiet_profile, "sunet", "whole", batch_size=3)
    alike(run(quiet_profile, "sunet", "parts", batch_size=3, micro_batch=2), whole)


def test_out_of_memory_halves_the_parts(quiet_profile, monkeypatch, capsys):
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
    assert [int(line.split("with ")[1].split()[0]) for line in said] == [2, 1]

    def none(self, image):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(SUNet, "forward", none)
    with pytest.raises(KitError, match="--recompute"):
        run(quiet_profile, "sunet", "none")


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputing_keeps_fewer_activations(network, nano):
    def kept(recomputed):
        net, sizes = create_model(network, **nano), {}
        if recomputed:
            recompute(net)

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net(torch.rand(1, 3, 64, 64))
        return sum(sizes.values())

    assert kept(True) < 0.8 * kept(False)


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputed_activations_change_nothing(network, profile):
    """Dropped paths are dropped again, and BatchNorm counts once."""
    whole = run(profile, network, "whole")
    assert content(run(profile, network, "recomputed", recomputed=True)) == content(whole)


def test_compiled_training_is_the_same_training(quiet_profile, monkeypatch):
    """With PyTorch's tracing and without its code generator, which takes minutes."""
    modes, trace = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda net, mode: modes.append(mode) or trace(net, backend="aot_eager"))
    whole = run(quiet_profile, "gcunet", "whole")
    alike(run(quiet_profile, "gcunet", "compiled", compiled="default"), whole, 1e-4)
    assert modes == ["default"]


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
    assert all(
        torch.allclose(ours[n].float(), theirs[n].float(), atol=2e-3) for n in theirs if n.endswith(("weight", "bias"))
    )
    with pytest.raises(KitError, match="another network"):
        run(profile, "sunet", "other", start=blind / "model.safetensors")


def test_the_best_weights_are_kept(profile):
    """With a rate that ruins the weights after the first validation, best.safetensors is from before."""
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
    rates = [row["lr"] for row in log(whole)]  # an epoch is two steps
    assert rates[0] == rates[1] != rates[2] == rates[3]
    with pytest.raises(KitError, match="31 pixels"):
        run(path, "gcunet", "small", hold_out=1, crop=16)


def options_of(nano):
    return {key: list(value) if isinstance(value, tuple) else value for key, value in nano.items()}


def test_the_rate_changes_once_an_epoch():
    """The paper's schedule: stairs, of which the first is not 0."""
    config = TrainingConfig(steps=60, warmup=30, epoch=10, lr=3e-4, min_lr=1e-6)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = Schedule(optimizer, config)
    rates = []
    for epoch in range(6):
        schedule.step_update(epoch * config.epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[:4] == sorted(rates[:4])
    assert rates[3] == pytest.approx(3e-4)
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_the_plan_counts_what_there_is(profile, capsys):
    training.main(["--profile", str(profile), "--model", "gcunet", "--device", "cpu", "--dry-run", "--steps", "1000"])
    text = capsys.readouterr().out
    options = yaml.safe_load(profile.read_text())["models"]["gcunet-nano"]
    options.pop("network")
    count = sum(p.numel() for p in create_model("gcunet", **options).parameters())
    assert f"{count:,} parameters" in text
    assert "1,000 steps × 2 crops of 32²" in text
    assert f"{6 * 64 * 64 * 3 / 1e6:.1f} MB for the decoded pictures" in text
    assert not (profile.parent / "results").exists()


def test_the_planned_memory_grows_with_the_crops_at_once(nano):
    net = create_model("sunet", **nano)
    config = recipe(crop=32)
    memory = [measure(net, config, torch.device("cpu"), crops, None)[1] for crops in (1, 2, 4)]
    state = 5 * sum(p.nbytes for p in net.parameters())  # weights, gradients, averages, two moments
    assert state < memory[0] < memory[1] < memory[2]
    assert memory[2] - state == pytest.approx(4 * (memory[0] - state), rel=0.35)


@pytest.mark.parametrize("model", ["sunet", "gcunet", "glownet", "sglownet"])
def test_the_published_recipes(model):
    """Reference: the page of the published networks; an epoch is 800 × 20 (SUNet: 100) pairs."""
    name, network, options, config = plan(load_profile("paper"), model)
    assert (network, options) == (model, {})
    batch, epochs = {"sunet": (4, 500), "glownet": (32, 100)}.get(model, (8, 100))
    pairs = 800 * (100 if model == "sunet" else 20)
    assert (config.batch_size, config.epoch) == (batch, pairs // batch)
    assert config.steps == epochs * config.epoch
    assert config.warmup == 3 * config.epoch
    assert (config.lr, config.min_lr, config.optimizer, config.betas) == (2e-4, 1e-6, "adam", (0.9, 0.999))
    _, _, _, tuned = plan(load_profile("paper"), model, "blind.pth", sigma=(30, 30))
    assert (tuned.lr, tuned.batch_size, tuned.steps // tuned.epoch) == (8e-5, 16, 100)


# Batches


@pytest.fixture
def pictures(photograph):
    return [("a.png", photograph), ("b.png", np.ascontiguousarray(photograph[:70, :90]))]


def recipe(**changes):
    return TrainingConfig(**{"batch_size": 4, "crop": 16, "steps": 5, **changes})


def test_store_gives_pictures_back(pictures, tmp_path):
    for source in (iter(pictures), iter(())):  # written, then found: nothing is decoded again
        store = PictureStore(source, tmp_path / "store", "these")
        assert len(store) == 2
        assert all(np.array_equal(store[i], picture) for i, (_, picture) in enumerate(pictures))


def test_store_follows_its_pictures(pictures, tmp_path):
    """Another stamp: the store is written again."""
    PictureStore(pictures, tmp_path / "store", "these")
    turned = [(name, picture[::-1]) for name, picture in pictures]
    for mark, other in (("turned", turned), ("fewer", pictures[1:])):
        store = PictureStore(other, tmp_path / "store", mark)
        assert len(store) == len(other)
        assert all(np.array_equal(store[i], picture) for i, (_, picture) in enumerate(other))


def test_torn_store_is_written_again(pictures, tmp_path):
    PictureStore(pictures, tmp_path / "store", "these")
    os.truncate(tmp_path / "store" / "pictures.json", 5)
    store = PictureStore(pictures, tmp_path / "store", "these")
    assert np.array_equal(store[1], pictures[1][1])


def test_store_of_an_unreadable_picture_is_not_left_half_written(pictures, tmp_path):
    def broken():
        yield pictures[0]
        raise KitError("b.png is no picture")

    with pytest.raises(KitError, match="b.png"):
        PictureStore(broken(), tmp_path / "store", "these")
    assert list((tmp_path / "store").iterdir()) == []


def test_store_repeats_grey(tmp_path):
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    store = PictureStore([("g.png", grey)], tmp_path / "store")
    assert np.array_equal(store[0], np.stack([grey] * 3, 2))


def test_samples_depend_on_seed_and_position_alone(pictures, tmp_path):
    store = PictureStore(pictures, tmp_path / "store")
    crops = NoisyCrops(store, recipe())
    later = [crops[i] for i in (9, 3)]
    again = [NoisyCrops(store, recipe(steps=99, batch_size=1))[i] for i in (9, 3)]
    assert all(torch.equal(a, b) for x, y in zip(later, again, strict=True) for a, b in zip(x, y, strict=True))
    other = NoisyCrops(store, recipe(seed=1))[9]
    assert not torch.equal(later[0][1], other[1])


def test_batches_can_start_anywhere_and_be_shared(pictures, tmp_path):
    store = NoisyCrops(PictureStore(pictures, tmp_path / "store"), recipe())
    whole = [noisy for noisy, _ in batches(store, recipe())]
    assert len(whole) == 5
    late = [noisy for noisy, _ in batches(store, recipe(), start=3)]
    assert all(torch.equal(a, b) for a, b in zip(late, whole[3:], strict=True))
    parts = [[noisy for noisy, _ in batches(store, recipe(), rank=rank, world=2)] for rank in (0, 1)]
    for batch, even, odd in zip(whole, *parts, strict=True):
        assert torch.equal(batch[0::2], even)
        assert torch.equal(batch[1::2], odd)


def test_crops_are_the_eight_symmetries_of_the_picture(tmp_path):
    """A picture of the crop's own size has eight forms, each about as frequent."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    store = PictureStore([("a.png", picture)], tmp_path / "store")
    forms = [np.rot90(p, k).tobytes() for p in (picture, picture[:, ::-1]) for k in range(4)]
    crops = NoisyCrops(store, recipe(share_grey=0.0))
    counts = dict.fromkeys(forms, 0)
    for i in range(400):
        counts[(crops[i][1].numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0).tobytes()] += 1
    assert min(counts.values()) > 25  # 50 expected, standard deviation 6.6


@pytest.mark.parametrize("sigma", [(25, 25), (5, 50)])
def test_noise_level_of_crops(sigma, pictures, tmp_path):
    store = PictureStore(pictures, tmp_path / "store")
    crops = NoisyCrops(store, recipe(sigma=sigma, share_8bit=0.0, share_grey=0.0))
    levels = [((noisy - clean).std() * 255).item() for noisy, clean in map(crops.__getitem__, range(200))]
    assert np.mean(levels) == pytest.approx(np.mean(sigma), abs=4 * max(np.ptp(sigma) / 12**0.5, 1) / 200**0.5)
    assert min(levels) > sigma[0] * 0.85
    assert max(levels) < sigma[1] * 1.15
    assert (np.ptp(levels) > 30) == (sigma[0] != sigma[1])


def test_grey_and_8bit_crops(pictures, tmp_path):
    store = PictureStore(pictures, tmp_path / "store")
    for noisy, clean in map(NoisyCrops(store, recipe(share_grey=1.0)).__getitem__, range(8)):
        assert torch.equal(clean, clean[:1].expand(3, -1, -1))
        torch.testing.assert_close(noisy, noisy[:1].expand(3, -1, -1))
    for noisy, _ in map(NoisyCrops(store, recipe(share_8bit=1.0)).__getitem__, range(8)):
        assert 0 <= noisy.min() <= noisy.max() <= 1
        torch.testing.assert_close(noisy * 255, (noisy * 255).round(), rtol=0, atol=1e-4)


def test_a_share_of_the_crops_is_drawn(tmp_path):
    black = PictureStore([("a.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    drawn = sum(NoisyCrops(black, recipe(share_drawn=0.3))[i][1].max() > 0 for i in range(200))
    assert 40 < drawn < 80  # 60 expected, standard deviation 6.5; the share that is drawn all black is small
    assert not any(NoisyCrops(black, recipe())[i][1].max() for i in range(50))


def test_another_share_is_drawn_from_the_restart_on(tmp_path):
    black = PictureStore([("a.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    restart = {"warmup": 2, "restarts": (10, 50), "restart_lr": (1e-3, 1e-3)}
    given = recipe(batch_size=4, share_drawn=0.0, restart_drawn=(0.5, 0.0), **restart)
    drawn = [NoisyCrops(black, given)[i][1].max() > 0 for i in range(240)]
    assert not any(drawn[:40] + drawn[200:])  # steps of four
    assert 55 < sum(drawn) < 95
    as_before = recipe(batch_size=4, share_drawn=0.3, **restart)
    plain = recipe(batch_size=4, share_drawn=0.3)
    assert all(torch.equal(*(NoisyCrops(black, c)[i][1] for c in (as_before, plain))) for i in range(60))


def test_held_out_pictures_are_not_trained_on(pictures, tmp_path):
    store = PictureStore([("a.png", pictures[0][1]), ("z.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    assert all(NoisyCrops(store, recipe(), count=1)[i][1].max() > 0 for i in range(50))
    assert any(NoisyCrops(store, recipe())[i][1].max() == 0 for i in range(50))


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Twenty prepared pairs of bundled photographs, and the recipe that trains on them."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    prepare("bundled", tmp_path / "pairs", crops=4, side=31)
    return recipe(data="bundled", pairs="pairs", crop=32, steps=10)


def test_pairs_come_once_an_epoch_each_in_another_order(pairs, tmp_path):
    stamp, pictures = read_pairs(pairs, {"rocket.png"})
    samples = PreparedPairs(PictureStore(pictures, tmp_path / "store", stamp), pairs)
    epochs = [[samples[epoch * 16 + i] for i in range(16)] for epoch in range(2)]
    sums = [[clean[:, :31, :31].sum().item() for _, clean in epoch] for epoch in epochs]
    assert sums[0] != sums[1]
    # A turned crop is padded before it is turned: what does not depend on that are its sorted values.
    values = [sorted(tuple(clean.unique().tolist()) for _, clean in epoch) for epoch in epochs]
    assert values[0] == values[1]
    assert len(set(values[0])) == 16
    again = samples[3]
    assert all(torch.equal(a, b) for a, b in zip(again, epochs[0][3], strict=True))
    for noisy, clean in epochs[0]:
        assert noisy.shape == clean.shape == (3, 32, 32)
        assert 0.01 < (noisy - clean).std() < 0.25  # the same crop, turned alike


def test_pairs_of_one_level_and_missing_pairs(pairs):
    assert pairs_folder(pairs).name == "pairs"
    one = recipe(data="bundled", pairs="pairs", sigma=(50, 50))
    assert pairs_folder(one).name == "pairs-sigma50"
    with pytest.raises(KitError, match=r"glowlib\.patches --dataset bundled --out .*pairs-sigma50 --sigma 50"):
        read_pairs(one, set())
