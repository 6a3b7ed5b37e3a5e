"""Every number in README is one that was measured, and its links and picture are there."""

import inspect
import re
import shutil
import subprocess
import typing
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from safetensors.torch import load_file

import glowlib
from glowlib.errors import KitError
from glowlib.evaluation.statistics import paired_differences
from glowlib.experiments import api, model_cards
from glowlib.experiments.cost import cost
from glowlib.experiments.interventions import losses
from glowlib.experiments.model_cards import write_documents
from glowlib.experiments.notebook import setup_cell
from glowlib.experiments.readme import ARMS, METHODS, replace_block, result_table, study_table, with_badges
from glowlib.networks.pretrained import list_models
from glowlib.training.profiles import load_profile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
TABLES = ROOT / "results" / "reference" / "standard" / "tables"
PEERS = ROOT / "results" / "reference" / "peers" / "tables"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += sorted(ROOT.glob("results/*.md")) + sorted(ROOT.glob("results/*/*.md"))


def block(text, name):
    return text.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def scores_of(folder):
    scores = pd.read_csv(folder / "scores.csv", dtype={"protocol": str})
    return scores[scores["protocol"] == "float"].groupby(["method", "dataset", "sigma"])["psnr"].mean()


# The table of results


def test_the_table_holds_the_means_of_the_single_scores():
    scores = pd.concat([scores_of(folder) for folder in (TABLES, PEERS.parent) if folder.is_dir()])
    head, _, *rows = map(cells, block(README, "results").splitlines())
    columns = [(dataset, sigma) for dataset in ("Kodak24", "CBSD68") for sigma in (10, 30, 50)]
    assert [name.split()[-1] for name in head[3:]] == [str(sigma) for _, sigma in columns]
    assert [name.split()[0] for name in head[3::3]] == ["Kodak24:", "CBSD68:"]
    names = {label: method for method, label in METHODS.items()}
    shown = {names[row[0]]: row[3:] for row in rows}
    assert set(shown) == {method for method in METHODS if method in scores.index.get_level_values("method")}
    for method, numbers in shown.items():
        assert numbers == [f"{scores[method, dataset, sigma]:.2f}" for dataset, sigma in columns]


def test_the_other_authors_methods_are_ahead_at_every_level_as_the_text_says():
    assert "they are ahead of the shipped networks at every level" in " ".join(README.split())
    best = scores_of(TABLES)[list(list_models().shipped)].groupby(["dataset", "sigma"]).max()
    assert (scores_of(PEERS.parent).groupby(["dataset", "sigma"]).min() > best).all()


@pytest.mark.parametrize("name", list_models().shipped)
def test_the_table_holds_the_parameters_and_operations_of_the_weights(name):
    (row,) = (row for row in map(cells, block(README, "results").splitlines()) if row[0] == METHODS[name])
    tensors = load_file(ROOT / "results" / "models" / name / "model.safetensors")
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: not trained
    values = sum(tensor.numel() for key, tensor in tensors.items() if not key.endswith(statistics))
    assert row[1] == f"{values / 1e6:.2f} M"
    assert row[2] == f"{1e3 * cost(name)['gflops'] / 256**2:.2f} M"


def test_methods_that_are_measured_elsewhere_get_a_row(tmp_path):
    for folder, method, psnr in (("standard", "noisy", 14.9), ("peers", "cbm3d", 28.46)):
        (tmp_path / folder).mkdir()
        rows = [(d, p, 50, method, psnr) for d in ("Kodak24", "CBSD68") for p in ("float", "8bit")]
        rows += [("CBSD68", "float", 50, "unknown", 30.0)]
        columns = ["dataset", "protocol", "sigma", "method", "psnr"]
        pd.DataFrame(rows, columns=columns).to_csv(tmp_path / folder / "summary.csv", index=False)
        costs = pd.DataFrame([(method, 667_000, 87.4)], columns=["method", "parameters", "gflops"])
        (costs if folder == "peers" else costs.iloc[:0]).to_csv(tmp_path / folder / "cost.csv", index=False)
    table = result_table([tmp_path / "standard", tmp_path / "peers", tmp_path / "absent"]).splitlines()
    assert cells(table[2]) == ["noisy image", "", "", "", "", "14.90", "", "", "14.90"]
    assert cells(table[3]) == ["CBM3D (given σ)", "0.67 M", "1.33 M", "", "", "28.46", "", "", "28.46"]
    assert len(table) == 4
    (tmp_path / "peers" / "cost.csv").unlink()
    with pytest.raises(KitError, match=r"cost\.csv"):
        result_table([tmp_path / "standard", tmp_path / "peers"])


def test_the_studys_table_has_means_over_images_and_seeds(tmp_path):
    assert study_table(tmp_path) == ""
    runs = [("sunet", 0, 5000, 890_000, 0.3), ("sunet", 1, 5000, 890_000, 0.3), ("sglownet", 0, 5000, 970_000, 1.54)]
    runs = pd.DataFrame(runs, columns=["model", "seed", "steps", "parameters", "gflops_crop"])
    runs.to_csv(tmp_path / "runs.csv", index=False)
    psnr = {("sunet", 0): (30, 32), ("sunet", 1): (31, 33), ("sglownet", 0): (31, 32), ("nlm", -1): (28, 28)}
    rows = [
        (model, seed, dataset, f"{i}.png", sigma, value - sigma / 10)
        for (model, seed), values in psnr.items()
        for dataset, sigma in (("Urban100", 50), ("CBSD68", 10), ("CBSD68", 50))
        for i, value in enumerate(values)
    ]
    scores = pd.DataFrame(rows, columns=["model", "seed", "dataset", "image", "sigma", "psnr"])
    scores.to_csv(tmp_path / "scores.csv", index=False)
    head, _, *table = map(cells, study_table(tmp_path).splitlines())
    assert head[5:] == ["CBSD68: 10", "CBSD68: 50", "Urban100: 50"]
    assert table == [
        ["non-local means (given σ)", "", "", "", "", "27.00", "23.00", "23.00"],
        ["SUNet", "2", "5,000", "0.89 M", "0.30 G", "30.50", "26.50", "26.50"],
        ["S-GLOWNet", "1", "5,000", "0.97 M", "1.54 G", "30.50", "26.50", "26.50"],
    ]


def test_every_arm_of_the_study_has_a_name():
    planned = load_profile("study")
    assert set(ARMS) == {*planned.models, *planned.methods} - {"noisy"}


# The generated blocks


def test_the_committed_documents_are_the_generated_ones(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/speed.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("results/speed", "results/study"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in write_documents(tmp_path, [TABLES, PEERS]):
        assert path.read_text() == (ROOT / path.relative_to(tmp_path)).read_text()


def test_the_page_of_functions_has_all_of_them():
    assert {function.__name__ for function in api.FUNCTIONS} | {"KitError"} == set(glowlib.__all__)
    assert (ROOT / "docs" / "api.md").read_text() == api.page()


@pytest.mark.parametrize("function", api.FUNCTIONS, ids=lambda function: function.__name__)
def test_a_docstring_describes_every_argument_and_hints_say_its_type(function):
    parts = api.split_docstring(inspect.getdoc(function))
    described = ", ".join(api.arguments(function, parts.get("Args", ""))).replace("*", "").split(", ")
    assert [word for word in described if word] == list(inspect.signature(function).parameters)
    assert set(typing.get_type_hints(function)) == {*inspect.signature(function).parameters, "return"}
    if function.__name__ != "list_models":  # it takes nothing, and cannot fail
        assert set(parts) == {"", *api.SECTIONS}


def test_a_word_that_is_no_argument_is_not_taken_for_one():
    def scale(image, factor):
        """Scale."""

    text = "image: any. Note: kept. factor: above 0"
    assert api.arguments(scale, text) == {"image": "any. Note: kept.", "factor": "above 0"}
    with pytest.raises(ValueError, match="scale: .* names no argument"):
        api.arguments(scale, "other: 1 image: any")


def test_a_block_is_replaced_and_nothing_else():
    text = "a\n<!-- results -->\nold\n<!-- /results -->\nb\n"
    assert replace_block(text, "results", "new") == "a\n<!-- results -->\nnew\n<!-- /results -->\nb\n"
    for broken in ("a\n", "<!-- results -->\n", "<!-- /results -->\n"):
        with pytest.raises(KitError, match="there is no block <!-- results -->"):
            replace_block(broken, "results", "new")


def test_badges_point_at_the_given_repository_and_go_away_again():
    text = with_badges(README, "someone/glowlib")
    found = re.findall(r"\(https://colab\.research\.google\.com/github/someone/glowlib/blob/main/(\S+)\)", text)
    assert found == [str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert with_badges(with_badges(text, "other/name"), "someone/glowlib") == text
    assert "colab.research" not in with_badges(text, "")


@pytest.mark.parametrize("name", ["glowlib", "a/b/c", "https://github.com/a/b", "a b/c"])
def test_a_repository_has_an_owner_and_a_name(name, capsys):
    with pytest.raises(SystemExit) as stop:
        model_cards.main(["--colab", name])
    assert stop.value.code == 2
    assert f"must be a GitHub repository OWNER/NAME, not {name!r}" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["https://github.com/a/b.git", "https://github.com/a/b", "git@github.com:a/b.git"])
def test_without_a_name_the_remote_on_github_is_taken(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["init", "--quiet"], ["remote", "add", "origin", address]):
        subprocess.run(["git", *command], check=True)
    assert model_cards.github_repository("") == "a/b"
    assert model_cards.github_repository("none") == ""


def test_a_remote_elsewhere_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["init", "--quiet"], ["remote", "add", "origin", "https://example.org/a/b.git"]):
        subprocess.run(["git", *command], check=True)
    with pytest.raises(KitError, match="not a repository on GitHub: name one"):
        model_cards.github_repository("")


def test_notebooks_get_address_and_badge_and_lose_them_again(tmp_path):
    for name in ("README.md", "docs", "notebooks", "results/speed", "results/study"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source, tmp_path / name)
    write_documents(tmp_path, [TABLES, PEERS], "")
    plain = {path.name: path.read_bytes() for path in (tmp_path / "notebooks").glob("*.ipynb")}
    written = write_documents(tmp_path, [TABLES, PEERS], "someone/kit")
    assert len(written) == 3 + len(plain)
    for path in written[3:]:
        first, setup = nbformat.read(path, 4).cells[:2]
        assert first.source.endswith(f"colab.research.google.com/github/someone/kit/blob/main/notebooks/{path.name})")
        assert setup.source == setup_cell("https://github.com/someone/kit")
    write_documents(tmp_path, [TABLES, PEERS], "")
    assert plain == {path.name: path.read_bytes() for path in (tmp_path / "notebooks").glob("*.ipynb")}


def test_outside_a_clone_one_line_says_where_to_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        model_cards.main([])
    assert stop.value.code == 2
    assert "run this in the top folder of a clone" in capsys.readouterr().err


# The rest of the page


def test_there_are_no_other_measured_numbers():
    rest = README.replace(block(README, "results"), "").replace(answer_section(), "")
    assert re.findall(r"\d+\.\d+", rest) == ["3.11", "3.13"]  # versions of Python
    assert not re.search(r"\d\s*(dB|%|seconds)", rest)


def test_the_picture_is_there_with_a_text_and_is_small():
    text, path = re.search(r"!\[([^\]]+)\]\((\S+\.png)\)", README).groups()
    assert len(text) > 80
    assert 50_000 < (ROOT / path).stat().st_size < 400_000


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, heading = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{document.name}: {link}"
        if heading:
            headings = re.findall(r"(?m)^#+ (.+)$", target.read_text())
            assert heading in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}, link


# The answer to the question


def answer_section():
    return README.split("## Does global context help?")[1].split("##")[0]


def readme_answer():
    return " ".join(answer_section().split())


def test_the_readme_claims_no_more_than_the_test_scores_show():
    scores = pd.read_csv(TABLES / "scores.csv", dtype={"protocol": str})
    scores = scores[(scores["protocol"] == "float") & (scores["sigma"] == 50)]
    found = set(re.findall(r"\S+ dB \(\S+ to \S+\) on \w+", readme_answer()))
    measured = paired_differences(scores, ["sglownet-small", "sunet-small"]).itertuples()
    assert found == {f"{r.difference:+.2f} dB ({r.low:+.2f} to {r.high:+.2f}) on {r.dataset}" for r in measured}


def test_the_readme_says_what_the_weights_use():
    found = losses(pd.read_csv(ROOT / "results" / "interventions" / "interventions.csv"))
    row = found.set_index(["network", "intervention", "sigma"]).loc["sglownet-small", "radius 32", 50]
    change = f"{row.difference:+.2f} dB ({row.low:+.2f} to {row.high:+.2f})"
    assert f"the PSNR of S-GLOWNet changes by {change} when its cross-attention is confined" in readme_answer()


def test_the_answer_is_the_studys():
    found = pd.read_csv(ROOT / "results" / "study" / "differences.csv")
    found = found[(found["a"] == "sglownet") & (found["sigma"] == 50)].set_index(["b", "dataset"])
    answer = readme_answer().split("The study trains")[0]
    numbers = {1: "one seed", 2: "two seeds", 3: "three seeds", 5: "five seeds"}
    arms = {
        "sunet-minutes": "after equal training time",
        "sunet": "after equal steps",
        "sunet-operations": "at equal operations",
    }
    for arm in found.index.get_level_values("b").intersection(list(arms)).unique():
        low, high = (found.loc[(arm, dataset)] for dataset in ("CBSD68", "Urban100"))
        said = (f"{r.difference:+.2f} dB ({r.low:+.2f} to {r.high:+.2f}) for {r.name[1]}" for r in (low, high))
        assert f"{arms[arm]}: " + " and ".join(said) + f" ({numbers[low.seeds]}" in answer
    (verdict,) = set(found.loc["sunet-minutes", "verdict"])  # both data sets say the same
    assert answer.startswith({"worse": "**No: ", "not shown": "**Not shown", "yes": "**Yes", "no": "**No: "}[verdict])
    assert len(re.findall(r"[.!?]\**(?= |$)", answer)) <= 5  # sentences


def test_the_cost_of_s_glownet_is_the_measured_one():
    times = cost("sglownet-small")["gflops"] / cost("sunet-small")["gflops"]
    assert f"S-GLOWNet takes {times:.0f} times SUNet's operations at 256² pixels" in readme_answer()
