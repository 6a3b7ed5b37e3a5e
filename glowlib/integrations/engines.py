"""The kit beside other runtimes on this processor: `python -m glowlib engines`.

Each network is timed in PyTorch as the kit runs it, and as a file of one size in ONNX Runtime and in OpenVINO, in its
plain form and in the kit's optimised one. All take the same threads and float32; OpenVINO has its latency hint.
One call of each in turn makes a round, so that a machine that slows down slows all of them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..errors import KitError, exit_clearly
from ..experiments.speed import SIDE, Case, build, engine_ratios, seconds
from ..files import user_path, write_csv
from ..training.profiles import load_profile
from .backends import BACKENDS, load_exported
from .export import export

COLUMNS = ["model", "engine", "form", "round", "seconds"]


def prepare(model: str, size: str, files: Path) -> dict[tuple[str, str], Callable[[], object]]:
    """{(engine, form): function that restores one image}, after one call each.

    Args:
        model: a name in the profile `size`, "paper" or "small".
        files: folder for exported files; those that are there are taken as they are.
    Raises:
        KitError: where a package is missing.
    """
    network = build(Case(model, size, "forward")).eval()
    image = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    tasks = {("kit", "optimised"): lambda: network(image)}
    for form, end in (("plain", ""), ("optimised", "-reduced")):
        path = files / f"{model}-{SIDE}{end}.onnx"
        if not path.exists():
            export(network, model, files, SIDE, reduced=bool(end))
        for backend in BACKENDS:
            exported = load_exported(path, backend)
            tasks[backend, form] = lambda exported=exported: exported(image)
    with torch.no_grad():
        expected = network(image)
        for (engine, form), task in tasks.items():
            if not torch.allclose(task(), expected, atol=1e-3):
                raise KitError(f"{engine} restores otherwise than {model} ({form} form): do not compare their times")
    return tasks


def measure(models: list[str], size: str, rounds: int, files: Path) -> pd.DataFrame:
    """A table with COLUMNS, a row for each call: wall time of one image of SIDE × SIDE pixels."""
    rows = []
    for model in models:
        tasks = prepare(model, size, files)
        with torch.no_grad():
            for number in tqdm(range(rounds), desc=model, unit="round"):
                rows += [(model, *key, number, seconds(task, "cpu")) for key, task in tasks.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


@exit_clearly
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m glowlib engines", description=__doc__.split(":")[0] + ".")
    parser.add_argument("--size", default="paper", choices=("paper", "small"), help="the published or shipped networks")
    parser.add_argument("--models", nargs="+", help="some of them (default: all)")
    parser.add_argument("--rounds", type=int, default=9, help="number of times that all are timed in turn")
    parser.add_argument("--out", type=user_path, default=Path("results/runs/bench"), help="folder for table and files")
    args = parser.parse_args(argv)
    known = list(load_profile(args.size).models)
    if unknown := set(args.models or ()) - set(known):
        raise KitError(f"unknown models {', '.join(sorted(unknown))}; known are: {', '.join(known)}")
    if args.rounds < 1:
        raise KitError(f"--rounds must be at least 1, not {args.rounds}")
    table = measure(args.models or known, args.size, args.rounds, args.out / "exported")
    write_csv(args.out / "engines_cpu.csv", COLUMNS, table.round(6).to_dict("records"))
    print(engine_ratios(table).to_markdown(index=False))
    print(f"in {args.out}: engines_cpu.csv; exported files in {args.out / 'exported'}")
