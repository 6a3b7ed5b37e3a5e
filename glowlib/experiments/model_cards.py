"""Model cards of the shipped models, read from their configuration, log and scores: `python -m glowlib cards`."""

import argparse
import json
from pathlib import Path

import pandas as pd

from ..errors import KitError, exit_clearly
from ..evaluation.benchmark import SCORES
from ..evaluation.tables import read_table
from ..files import shipped_folder
from ..networks.pretrained import list_models
from ..training.config import TrainingConfig
from ..training.run_folder import VALIDATION_SIGMAS
from .cost import cost

KINDS = {
    "sunet": "SUNet: Swin windows in a U-Net, patches only",
    "gcunet": "GCUNet: global context blocks in a U-Net, no windows",
    "glownet": "GLOWNet: windows and global context in parallel, merged by cross-attention",
    "sglownet": "S-GLOWNet: global context first, then windows that ask it by cross-attention",
}
SETTING = ["dataset", "protocol", "sigma"]


def minutes(log, batch_size):
    """Minutes that the steps of a log took. log: its table, whose rate is that of the steps since the row before."""
    steps = log["step"].diff().fillna(log["step"].iloc[0])
    return float((steps * batch_size / log["images_per_second"]).sum() / 60)


def card(name, summary):
    """Markdown of a shipped model's card. summary: what `tables.summarise` makes of the standard scores."""
    folder = shipped_folder() / name
    config = json.loads((folder / "config.json").read_text())
    recipe, log = TrainingConfig(**config["training"]), pd.read_csv(folder / "log.csv")
    size, crops = cost(name), config["step"] * recipe.batch_size
    drawn = ", later ".join(f"{share:.0%}" for share in (recipe.share_drawn, *recipe.restart_drawn))
    restarts = zip(recipe.restart_lr, recipe.restarts, strict=True)
    restart = "".join(f", again from {lr:g} at step {step:,}" for lr, step in restarts)
    last = log.iloc[-1]
    if name not in set(summary["method"]):
        raise KitError(f"there are no scores of {name}: run the standard profile with it first")
    held_out = ", ".join(f"{last[f'psnr_sigma{s}']:.2f} dB at σ = {s}" for s in VALIDATION_SIGMAS)
    scores = summary[summary["method"] == name].merge(
        summary.loc[summary["method"] == "noisy", [*SETTING, "psnr"]], on=SETTING, suffixes=("", "_noisy")
    )
    scores = scores[[*SETTING, "psnr_noisy", *SCORES]]
    scores.columns = ["pictures", "noise", "σ", "PSNR, noisy", "PSNR", "SSIM, `grey`", "SSIM, `rgb`"]
    limits = [
        "White Gaussian noise only: noise of cameras, JPEG or film differs; the model was not trained on it.",
        "Levels beyond the trained range were not trained.",
        "The training was short; what a longer one would bring was not measured. A small model to learn from and to "
        "train further, no rival of networks that were trained for days.",
        "One training, one seed: how far the scores of another would lie from these was not measured. The four models "
        "were trained with equal steps, not with equal time or operations: their differences do not show that global "
        "context helps.",
        "Fine texture is smoothed at strong noise, and nothing restored is evidence of what was there.",
    ]
    facts = {
        "network": f"{KINDS[config['network']]}; options in `config.json`",
        "size": f"{size['parameters'] / 1e6:.2f} million parameters, {size['gflops']:.1f} GFLOP for 256×256 pixels",
        "input": "a colour photograph in [0, 1] with Gaussian noise of any σ from "
        f"{recipe.sigma[0]} to {recipe.sigma[1]} (0 to 255 scale), which it is not told; `float` or `8bit` noise",
        "data": f"{recipe.data}, without {recipe.hold_out} pictures that were held out; {recipe.share_grey:.0%} of the "
        f"crops are grey, {drawn} drawn (`glowlib/drawings.py`)",
        "recipe": f"{recipe.loss.upper()} loss, {recipe.optimizer}, rate {recipe.lr:g} after {recipe.warmup} steps of "
        f"warm-up, falling to {recipe.min_lr:g} as a cosine{restart}; seed {recipe.seed}",
        "budget": f"{config['step']:,} steps of {recipe.batch_size} crops of {recipe.crop}² ({crops:,} crops): "
        f"{minutes(log, recipe.batch_size):.0f} minutes at the rate of the log",
        "selection": f"none: the averaged weights of the last step; held-out pictures: {held_out}",
    }
    return "\n\n".join(
        [
            f"# {name}",
            "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]),
            f'`glowlib.load_pretrained("{name}")` opens it. `model.safetensors` is in half precision, and computes in '
            "float32.",
            "## Scores",
            "PSNR in dB over RGB and SSIM under both conventions, means over all pictures, default tiling; single "
            "pictures are in `results/reference/standard/tables/scores.csv`.",
            scores.to_markdown(index=False, floatfmt=("", "", "g", ".2f", ".2f", ".4f", ".4f")),
            "## Limits",
            "\n".join(f"- {limit}" for limit in limits),
        ]
    )


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib cards", description=__doc__.split(":")[0] + ".")
    parser.add_argument(
        "--tables", type=Path, default=Path("results/reference/standard/tables"), help="folder with summary.csv"
    )
    args = parser.parse_args(argv)
    summary = read_table(args.tables / "summary.csv", ["protocol"])
    for name in list_models().shipped:
        (shipped_folder() / name / "README.md").write_text(card(name, summary) + "\n")
        print(shipped_folder() / name / "README.md")
