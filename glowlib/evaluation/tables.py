"""Tables of scores: their summary, the paper's layout as Markdown and LaTeX, what others published."""

from pathlib import Path

import pandas as pd

from ..errors import KitError
from .benchmark import SCORES


def summarise(table):
    """Means over pictures and seeds: a row for each (dataset, protocol, σ, method), methods in their order."""
    return table.groupby(["dataset", "protocol", "sigma", "method"], sort=False)[SCORES].mean().reset_index()


def published(datasets):
    """What others report on these sets: a table with each number's noise protocol and source, never to be mixed
    with measured rows. The paper's own tables for SUNet, GLOWNet and S-GLOWNet are pictures only: unknown here.
    """
    with Path(__file__).with_name("published_results.csv").open() as file:
        table = pd.read_csv(file)
    table = table[table["dataset"].isin(datasets)].rename(columns={"noise": "protocol", "psnr_db": "psnr"})
    return table.reset_index(drop=True)


def paper_layout(summary, protocol):
    """The paper's layout of one protocol: a row a method, columns (dataset, σ, score), rounded for print."""
    part = summary[summary["protocol"] == protocol]
    wide = part.pivot(index="method", columns=["dataset", "sigma"], values=["psnr", "ssim_grey"])
    wide = wide.loc[part["method"].unique()].reorder_levels([1, 2, 0], axis=1)
    columns = [
        (d, s, m) for d in part["dataset"].unique() for s in part["sigma"].unique() for m in ("psnr", "ssim_grey")
    ]
    wide = wide[columns]
    shown = wide.copy().astype(object)
    for column in columns:
        shown[column] = wide[column].map(("{:.2f}" if column[2] == "psnr" else "{:.4f}").format)
    names = {"psnr": "PSNR", "ssim_grey": "SSIM"}
    shown.columns = pd.MultiIndex.from_tuples([(d, f"σ = {s:g}", names[m]) for d, s, m in columns])
    shown.index.name = None
    return shown


def write_tables(summary, folder):
    """summary.csv, and for each protocol table_<protocol>.md and .tex, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    summary.to_csv(folder / "summary.csv", index=False, float_format="%.6f")
    for protocol in summary["protocol"].unique():
        shown = paper_layout(summary, protocol)
        caption = f"PSNR (dB) over RGB and SSIM (grey, 7×7 uniform window), mean over the pictures; noise: {protocol}."
        flat = shown.copy()
        flat.columns = [", ".join(column) for column in shown.columns]
        (folder / f"table_{protocol}.md").write_text(f"{caption}\n\n{flat.to_markdown(disable_numparse=True)}\n")
        latex = shown.rename(columns=lambda c: c.replace("σ", r"$\sigma$")).style.to_latex(
            hrules=True,
            caption=caption.replace("×", r"$\times$"),
            column_format="l" + "r" * shown.shape[1],
            multicol_align="c",
        )
        (folder / f"table_{protocol}.tex").write_text(latex)


def read_table(path, keys):
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(keys, str))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read the table {path}: {str(error).splitlines()[0]}") from error
