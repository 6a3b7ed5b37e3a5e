"""Tables of scores: their means, the paper's layout as Markdown and LaTeX, CBM3D's rows, what others published."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..errors import KitError
from ..files import CLONE, atomic_write
from .benchmark import KEYS, SCORES

CAPTION = "PSNR (dB) over RGB and SSIM (grey, 7×7 uniform window), mean over the images; the best value is bold"
SHOWN = {"psnr": ("PSNR", "{:.2f}"), "ssim_grey": ("SSIM", "{:.4f}")}
PEER_SCORES = CLONE / "results" / "reference" / "peers" / "scores.csv"


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means over images and seeds: a row for each (dataset, protocol, σ, method), methods in their order."""
    return table.groupby(["dataset", "protocol", "sigma", "method"], sort=False)[SCORES].mean().reset_index()


def with_peers(scores: pd.DataFrame, path: Path = PEER_SCORES) -> pd.DataFrame:
    """The scores, with rows of methods that take hours to compute (CBM3D) from the table that comes with the kit.

    Args:
        scores: the table of `run_benchmark`.
        path: the table of the `peers` profile; without it, nothing is added.

    Returns:
        The scores, and below them the rows of other methods for the same images, levels, protocols and seeds, where
        every image has one.

    Raises:
        KitError: the table cannot be read, or an image in it has other pixels than here.
    """
    if not path.exists():
        return scores
    rows = read_table(path, KEYS)
    rows[["sigma", "seed"]] = rows[["sigma", "seed"]].apply(pd.to_numeric)
    rows = rows[~rows["method"].isin(scores["method"])]
    setting = ["dataset", "protocol", "sigma", "seed"]
    here = scores[[*setting, "image", "image_hash"]].drop_duplicates()
    rows = rows.merge(here, on=[*setting, "image"], suffixes=("", "_here"))
    for row in rows[rows["image_hash"] != rows["image_hash_here"]].itertuples():
        raise KitError(f"{path} holds scores of another image called {row.dataset}/{row.image}: score it again")
    images = here.groupby(setting)["image"].nunique()
    complete = rows.groupby([*setting, "method"])["image"].transform("size")
    needed = images.reindex(pd.MultiIndex.from_frame(rows[setting])).to_numpy()
    return pd.concat([scores, rows.loc[complete.to_numpy() == needed, scores.columns]], ignore_index=True)


def published(datasets: Sequence[str]) -> pd.DataFrame:
    """What others report on these datasets, each number with its noise protocol and its source.

    These numbers never stand among measured rows. The paper's own tables for SUNet, GLOWNet and S-GLOWNet exist as
    images only: they are not known here.
    """
    with Path(__file__).with_name("published_results.csv").open() as file:
        table = pd.read_csv(file)
    return table[table["dataset"].isin(datasets)].reset_index(drop=True)


def paper_layout(summary: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """The paper's layout for one noise protocol: a row a method, columns (dataset, σ, score), rounded for print.

    Args:
        summary: from `summarise`.
        protocol: "float" or "8bit".

    Returns:
        A table of text; "–" where a method has no score.
    """
    part = summary[summary["protocol"] == protocol]
    wide = part.pivot(index="method", columns=["dataset", "sigma"], values=list(SHOWN))
    wide = wide.loc[part["method"].unique()]
    levels = part[["dataset", "sigma"]].drop_duplicates().itertuples(index=False)
    columns = {}
    for dataset, sigma in levels:
        for score, (name, digits) in SHOWN.items():
            values = wide[score, dataset, sigma]
            columns[dataset, f"σ = {sigma:g}", name] = values.map(digits.format).where(values.notna(), "–")
    return pd.DataFrame(columns).rename_axis(None)


def best(shown: pd.DataFrame) -> pd.DataFrame:
    """Whether each value of a table from `paper_layout` is its column's best, as printed; equal ones all are."""
    values = shown.apply(pd.to_numeric, errors="coerce")
    return values == values.max()


def write_tables(summary: pd.DataFrame, folder: Path) -> None:
    """Write summary.csv and, for each protocol, table_<protocol>.md and .tex with one table a dataset into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "summary.csv") as temporary:
        summary.to_csv(temporary, index=False, float_format="%.6f")
    for protocol in summary["protocol"].unique():
        shown = paper_layout(summary, protocol)
        markdown, latex = [], []
        for dataset in shown.columns.unique(0):
            part = shown[dataset]
            part = part[(part != "–").any(axis=1)]
            caption = f"{dataset}, {protocol} noise: {CAPTION}."
            markdown.append(f"{caption}\n\n{as_markdown(part)}\n")
            latex.append(as_latex(part, caption))
        for suffix, parts in ((".md", markdown), (".tex", latex)):
            with atomic_write(folder / f"table_{protocol}{suffix}") as temporary:
                temporary.write_text("\n".join(parts), encoding="utf-8")


def as_markdown(shown: pd.DataFrame) -> str:
    """One dataset's table as Markdown, best values bold."""
    flat = shown.mask(best(shown), "**" + shown + "**")
    flat.columns = [", ".join(column) for column in shown.columns]
    flat.index = [name.replace("|", "\\|") for name in shown.index]
    return flat.to_markdown(disable_numparse=True, colalign=["left"] + ["right"] * flat.shape[1])


def as_latex(shown: pd.DataFrame, caption: str) -> str:
    """One dataset's table as LaTeX (booktabs), best values bold."""
    bold = shown.mask(best(shown), r"\textbf{" + shown + "}")
    bold = bold.rename(columns=lambda name: name.replace("σ", r"$\sigma$"))
    return bold.style.format_index(escape="latex").to_latex(
        hrules=True,
        caption=caption.replace("×", r"$\times$"),
        column_format="l" + "r" * shown.shape[1],
        multicol_align="c",
    )


def read_table(path: Path, keys: Sequence[str]) -> pd.DataFrame:
    """A CSV table whose columns `keys` stay text; a KitError, one line, where it cannot be read."""
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(keys, str))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read the table {path}: {str(error).splitlines()[0]}") from error
