"""Model cards of the shipped models, and the results that README and docs/ show: `python -m glowlib cards`.

A card is made from the model's configuration, its training log and its scores; README's table from the scores.
"""

import argparse
import json
import re
import subprocess
from pathlib import Path

import pandas as pd

from ..errors import KitError, exit_clearly
from ..evaluation.benchmark import SCORES
from ..evaluation.tables import read_table
from ..files import shipped_folder, user_path
from ..networks.pretrained import list_models
from ..training.config import TrainingConfig
from ..training.run_folder import VALIDATION_SIGMAS
from .api import page as api_page
from .cost import cost
from .notebook import write_setup
from .readme import colab_badge, draw_teaser, replace_block, result_table, study_table, with_badges
from .speed import engine_ratios, readable

KINDS = {
    "sunet": "SUNet: Swin windows in a U-Net, no global context",
    "gcunet": "GCUNet: global context blocks in a U-Net, no windows",
    "glownet": "GLOWNet: windows and global context in parallel, joined by cross-attention",
    "sglownet": "S-GLOWNet: global context first, then windows that attend to it by cross-attention",
}
# What model hubs read: https://huggingface.co/docs/hub/model-cards
HEAD = """---
license: mit
library_name: glowlib
pipeline_tag: image-to-image
tags:
- image-denoising
- image-restoration
- pytorch
---"""
SETTING = ["dataset", "protocol", "sigma"]
LIMITS = [
    "Trained on white Gaussian noise only. The noise of cameras, JPEG compression and film grain are different.",
    "Not trained on noise levels outside the range above.",
    "Trained briefly. The effect of a longer training was not measured. This is a small model to learn from and to "
    "train further; networks that were trained for days are better.",
    "One training with one seed: the spread over seeds was not measured. The four models were trained with equal "
    "steps, not with equal time or operations: their differences do not show that global context helps.",
    "Strong noise hides fine texture, and the model smooths it. A restored image is an estimate, not evidence.",
]


def minutes(log: pd.DataFrame, batch_size: int) -> float:
    """Minutes that the steps of a training took. The rate in each row of its log is that since the row before."""
    steps = log["step"].diff().fillna(log["step"].iloc[0])
    return float((steps * batch_size / log["images_per_second"]).sum() / 60)


def training_facts(name: str) -> dict[str, str]:
    """The rows of a card's table, from the model's config.json and log.csv."""
    folder = shipped_folder() / name
    config = json.loads((folder / "config.json").read_text())
    recipe, log = TrainingConfig(**config["training"]), pd.read_csv(folder / "log.csv")
    size, crops = cost(name), config["step"] * recipe.batch_size
    drawn = f"{recipe.share_drawn:.0%}"
    drawn += "".join(
        f", {share:.0%} from step {step:,}" for share, step in zip(recipe.restart_drawn, recipe.restarts, strict=False)
    )
    restarts = zip(recipe.restart_lr, recipe.restarts, strict=True)
    restarts = "".join(f", warm restart to {lr:g} at step {step:,}" for lr, step in restarts)
    held_out = ", ".join(f"{log.iloc[-1][f'psnr_sigma{s}']:.2f} dB at σ = {s}" for s in VALIDATION_SIGMAS)
    return {
        "network": f"{KINDS[config['network']]}; options in `config.json`",
        "size": f"{size['parameters'] / 1e6:.2f} million parameters, {size['gflops']:.1f} GFLOP for 256×256 pixels",
        "input": "a colour image in [0, 1] with Gaussian noise, `float` or `8bit`, of any σ from "
        f"{recipe.sigma[0]} to {recipe.sigma[1]} (0 to 255 scale); σ is not given to the network",
        "training data": f"{recipe.data} without {recipe.hold_out} held-out images; {recipe.share_grey:.0%} of the "
        f"crops are grey; synthetic crops (`glowlib/data/synthetic.py`): {drawn}",
        "recipe": f"{recipe.loss.upper()} loss, {recipe.optimizer}, learning rate {recipe.lr:g} after {recipe.warmup} "
        f"warm-up steps, cosine decay to {recipe.min_lr:g}{restarts}; seed {recipe.seed}",
        "budget": f"{config['step']:,} steps of {recipe.batch_size} crops of {recipe.crop}² pixels ({crops:,} crops): "
        f"{minutes(log, recipe.batch_size):.0f} minutes at the rate in `log.csv`",
        "selection": f"none: averaged weights of the last step; on centre crops of the held-out images: {held_out}",
    }


def card(name: str, summary: pd.DataFrame) -> str:
    """The card of a shipped model, as Markdown.

    Args:
        summary: the table that `tables.summarise` makes of the `standard` profile's scores.
    Raises:
        KitError: where the summary has no scores of the model.
    """
    if name not in set(summary["method"]):
        raise KitError(f"there are no scores of {name}: run make reproduce PROFILE=standard with it first")
    scores = summary[summary["method"] == name].merge(
        summary.loc[summary["method"] == "noisy", [*SETTING, "psnr"]], on=SETTING, suffixes=("", "_noisy")
    )
    scores = scores[[*SETTING, "psnr_noisy", *SCORES]]
    scores.columns = ["data set", "noise", "σ", "PSNR, noisy", "PSNR", "SSIM, `grey`", "SSIM, `rgb`"]
    return "\n\n".join(
        [
            HEAD,
            f"# {name}",
            "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in training_facts(name).items())]),
            f'Load it with `glowlib.load_pretrained("{name}")`. `model.safetensors` holds half-precision weights; the '
            "network computes in float32.",
            "## Scores",
            "PSNR over RGB in dB and SSIM under both conventions: means over all images, automatic tiles. The scores "
            "of single images are in `results/reference/standard/tables/scores.csv`.",
            scores.to_markdown(index=False, floatfmt=("", "", "g", ".2f", ".2f", ".4f", ".4f")),
            "## Limits",
            "\n".join(f"- {limit}" for limit in LIMITS),
        ]
    )


def github_repository(name: str) -> str:
    """The "owner/name" that an argument of the command stands for.

    Args:
        name: "owner/name"; empty: the remote `origin` of the clone in the current folder; "none": no repository.
    Returns:
        "owner/name", or empty.
    Raises:
        KitError: for anything else, and where the remote is not on GitHub.
    """
    if name == "none":
        return ""
    if name:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise KitError(f"--colab must be a GitHub repository OWNER/NAME, not {name!r}")
        return name
    remote = subprocess.run(["git", "remote", "get-url", "origin"], capture_output=True, text=True, check=False).stdout
    found = re.fullmatch(r"(?:https://github\.com/|git@github\.com:)([\w.-]+/[\w.-]+?)(?:\.git)?/?", remote.strip())
    if not found:
        raise KitError("the remote origin is not a repository on GitHub: name one, as in make colab REPO=owner/name")
    return found[1]


def write_documents(top: Path, tables: list[Path], repository: str | None = None) -> list[Path]:
    """Write docs/api.md and the generated parts of README, docs/speed.md and the notebooks in the clone at `top`.

    Args:
        tables: as for `readme.result_table`.
        repository: "owner/name" on GitHub, for the Colab badges and the address that the notebooks clone there; empty
            to remove both; None: leave them, and the notebooks, as they are.
    Returns:
        The files.
    """
    readme, speed, api = top / "README.md", top / "docs" / "speed.md", top / "docs" / "api.md"
    api.write_text(api_page())
    text = replace_block(readme.read_text(), "results", result_table(tables))
    text = replace_block(text, "study", study_table(top / "results" / "study"))
    readme.write_text(text if repository is None else with_badges(text, repository))
    measured = top / "results" / "speed"
    engines = engine_ratios(read_table(measured / "engines_cpu.csv", []))
    page = replace_block(speed.read_text(), "engines", engines.set_index("model").T.to_markdown())
    speed.write_text(
        replace_block(page, "speed", readable(read_table(measured / "speed_cpu.csv", [])).to_markdown(index=False))
    )
    notebooks = [] if repository is None else sorted((top / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        write_setup(path, repository and f"https://github.com/{repository}", colab_badge(repository, path.name))
    return [readme, speed, api, *notebooks]


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib cards", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tables", type=user_path, default=Path("results/reference/standard/tables"), help="folder with summary.csv"
    )
    parser.add_argument(
        "--colab",
        nargs="?",
        const="",
        metavar="OWNER/NAME",
        help="GitHub repository from which Colab opens the notebooks; without a name the remote origin; none: no Colab",
    )
    parser.add_argument("--teaser", action="store_true", help="draw the picture on top of README again, too")
    args = parser.parse_args(argv)
    repository = args.colab if args.colab is None else github_repository(args.colab)
    top = Path()
    if not (top / "README.md").exists():
        raise KitError("there is no README.md here: run this in the top folder of a clone")
    summary = read_table(args.tables / "summary.csv", ["protocol"])
    for name in list_models().shipped:
        path = shipped_folder() / name / "README.md"
        path.write_text(card(name, summary) + "\n")
        print(path)
    peers = top / "results" / "reference" / "peers" / "tables"
    print(*write_documents(top, [args.tables, peers], repository), sep="\n")
    if args.teaser:
        path = top / "docs" / "teaser.png"
        draw_teaser().savefig(path, dpi=150, metadata={"Software": None})
        print(path)
