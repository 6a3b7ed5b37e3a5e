"""The report opens with the verdict, shows claims, tables and figures, and escapes what it quotes."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest

from glowlib.experiments.judge import judge
from glowlib.experiments.report import paper_map, write_report


def read(run):
    return (run[1] / "report.html").read_text(encoding="utf-8")


def test_an_equal_run_agrees(run):
    failures, count = write_report(*run)
    assert failures == []
    assert count == len(judge(*run))
    assert f"All {count} checks agree." in read(run)


def test_the_verdict_comes_first_then_claims_tables_figures_and_folded_checks(run):
    write_report(*run)
    text = read(run)
    order = [
        "checks agree",
        "not run",
        "What the README claims",
        "The paper, part by part",
        "Tables of this run",
        "<h2>Figures",
        "<details>",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "bundled, float noise" in text
    assert re.search(r"<td>wavelet</td><td><b>\d\d\.\d\d</b></td>", text)  # the best value is bold
    assert 'src="figures/photograph.png"' in text
    assert 'src="../../reference/quick/figures/photograph.png"' in text


def test_what_fails_is_listed_and_shown_in_red(run):
    plt.imsave(run[1] / "figures" / "photograph.png", np.zeros((32, 32, 3)))
    (run[1] / "tables" / "cost.csv").write_text("")
    failures, count = write_report(*run)
    assert "figures: photograph: DIFFERS" in failures
    assert any(line.startswith("cost.csv: cost.csv: DAMAGED (") for line in failures)
    text = read(run)
    assert f"{len(failures)} of {count} checks do not agree." in text
    assert "checks agree." not in text
    assert '<span class="bad">DIFFERS</span>' in text


def test_a_run_of_damaged_files_still_has_a_report(run):
    for place in run[1:]:
        for path in (*place.rglob("*.csv"), *place.rglob("*.png"), *place.rglob("*.json")):
            path.write_bytes(b"\xff\xfe")
    failures, count = write_report(*run)
    assert len(failures) > 10
    assert "do not agree" in read(run)


@pytest.mark.parametrize("name", ["<b>.png", "a&b.png"])
def test_names_are_escaped(run, name):
    for place in run[1:]:
        (place / "figures" / name).write_bytes((place / "figures" / "photograph.png").read_bytes())
    write_report(*run)
    text = read(run)
    assert "<b>.png" not in text
    assert "a&b" not in text.replace("a&amp;b", "")
    assert "&lt;b&gt;" in text or "a&amp;b" in text


def test_the_papers_parts_are_read_from_the_page(tmp_path):
    page = tmp_path / "paper.md"
    page.write_text(
        "# The paper\n| network | size |\n|---|---|\n| a | 1 |\n## Tables\n| in the paper | status |\n|---|---|\n"
        "| table 1, [notebook 06](06.ipynb) | `unknown` |\n## More\n| network | size |\n|---|---|\n| b | 2 |\n"
    )
    (table,) = paper_map(page)
    assert table.title == "Tables"
    assert table.header == ["in the paper", "status"]
    assert table.rows == [[("table 1, notebook 06", False), ("unknown", False)]]
    assert paper_map(tmp_path / "none.md") == []
