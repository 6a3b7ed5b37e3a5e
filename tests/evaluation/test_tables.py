"""Tables: the right means, the best value bold, CBM3D's rows only for the same images, a source beside each number."""

import pandas as pd
import pytest
from skimage import data

from glowlib import KitError
from glowlib.evaluation.benchmark import KEYS, run_benchmark
from glowlib.evaluation.tables import best, paper_layout, published, summarise, with_peers, write_tables

METHODS = ["noisy", "wavelet"]
IMAGES = {
    "tiny": [("a.png", data.astronaut()[:48, :64]), ("b.png", data.chelsea()[:40, :40])],
    "small": [("c.png", data.coffee()[:40, :40])],
}


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    return run_benchmark(IMAGES, METHODS, (10, 50), path, protocols=("float", "8bit"), progress=False)


@pytest.fixture
def peers(scores, tmp_path):
    """The table of another method on the same images, float noise only."""
    path = tmp_path / "peers.csv"
    rows = scores.query("method == 'wavelet' and protocol == 'float'").assign(method="cbm3d", psnr=40.0)
    rows.to_csv(path, index=False)
    return path


def test_published_numbers_name_their_source():
    table = published(["Kodak24", "CBSD68"])
    assert set(table["dataset"]) == {"Kodak24", "CBSD68"}
    assert set(table["protocol"]) == {"float", "8bit"}
    assert table["source"].str.len().min() > 10
    assert not table.duplicated(["method", "dataset", "sigma", "protocol", "source"]).any()
    assert len(published(["bundled"])) == 0


def test_cbm3d_has_the_numbers_that_all_sources_but_one_give():
    rows = published(["CBSD68"]).query("method == 'CBM3D'").set_index("sigma")["psnr"]
    assert rows.to_dict() == {15: 33.52, 25: 30.71, 50: 27.38}


def test_tables_in_the_papers_layout(scores):
    shown = paper_layout(summarise(scores), "float")
    assert list(shown.index) == METHODS
    assert list(shown.columns[0]) == ["tiny", "σ = 10", "PSNR"]
    assert list(shown.columns.unique(0)) == ["tiny", "small"]
    where = "dataset == 'tiny' and protocol == 'float' and sigma == 10 and method == 'noisy'"
    assert shown.iloc[0, 0] == f"{scores.query(where)['psnr'].mean():.2f}"


def test_a_table_a_dataset_names_its_protocol_and_best_value(scores, tmp_path):
    summary = summarise(scores)
    write_tables(summary, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "summary.csv",
        *(f"table_{protocol}{suffix}" for protocol in ("8bit", "float") for suffix in (".md", ".tex")),
    ]
    wavelet = paper_layout(summary, "float")["tiny"].loc["wavelet"].iloc[0]
    markdown = (tmp_path / "table_float.md").read_text()
    assert markdown.index("tiny, float noise: PSNR (dB)") < markdown.index("small, float noise: PSNR (dB)")
    assert f"| wavelet |      **{wavelet}** |" in markdown
    assert markdown.count("\n| noisy") == 2
    latex = (tmp_path / "table_float.tex").read_text()
    assert latex.count(r"\toprule") == latex.count(r"\begin{tabular}{lrrrr}") == 2
    assert rf"wavelet & \textbf{{{wavelet}}} &" in latex


def test_equal_values_are_all_best_and_a_missing_one_never():
    shown = pd.DataFrame({"PSNR": ["28.30", "9.99", "28.30", "–"]})
    assert best(shown)["PSNR"].tolist() == [True, False, True, False]


def test_names_cannot_break_a_table(scores, tmp_path):
    renamed = scores.replace("wavelet", "a_b|c")
    write_tables(summarise(renamed), tmp_path)
    assert r"a\_b|c &" in (tmp_path / "table_float.tex").read_text()
    assert r"| a_b\|c" in (tmp_path / "table_float.md").read_text()


def test_rows_of_slow_methods_join_where_there_are_some(scores, peers, tmp_path):
    assert with_peers(scores, tmp_path / "none.csv") is scores
    joined = with_peers(scores, peers)
    assert list(joined.columns) == list(scores.columns)
    added = joined[len(scores) :]
    assert len(added) == 3 * 2
    assert (added["method"] == "cbm3d").all()
    assert not joined.duplicated(KEYS).any()
    shown = paper_layout(summarise(joined), "float")
    assert (shown.loc["cbm3d"].xs("PSNR", level=2) == "40.00").all()
    assert "cbm3d" not in paper_layout(summarise(joined), "8bit").index


def test_rows_of_slow_methods_need_every_image(scores, peers):
    pd.read_csv(peers).query("image != 'b.png' or sigma != 50").to_csv(peers, index=False)
    added = with_peers(scores, peers)[len(scores) :]
    assert sorted(zip(added["dataset"], added["sigma"], strict=True)) == [
        ("small", 10),
        ("small", 50),
        ("tiny", 10),
        ("tiny", 10),
    ]
    shown = paper_layout(summarise(with_peers(scores, peers)), "float")
    assert shown.loc["cbm3d", ("tiny", "σ = 50", "PSNR")] == "–"


def test_rows_of_another_image_are_refused(scores, peers):
    rows = pd.read_csv(peers)
    rows.loc[rows["image"] == "b.png", "image_hash"] = "0" * 16
    rows.to_csv(peers, index=False)
    with pytest.raises(KitError, match=r"another image called tiny/b\.png"):
        with_peers(scores, peers)


def test_rows_that_were_computed_here_count(scores, peers):
    mine = pd.concat([scores, scores.query("method == 'noisy'").assign(method="cbm3d")])
    assert len(with_peers(mine, peers)) == len(mine)
