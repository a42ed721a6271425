"""README.md and models/README.md: generated tables, links, and examples that run."""

import re
import statistics
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import update_tables
from notebook_code import cell_tagged

import fmnist_utils as fmnist
from benchmarks.notebook_code import FRAMEWORKS, REPOSITORY, read_notebook

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("name", update_tables.DOCUMENTS)
def test_the_tables_are_those_of_the_metrics(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert "<!-- end of " in text
    assert update_tables.updated(text) == text, "run: python tools/update_tables.py"


@pytest.mark.parametrize("name", update_tables.NOTEBOOKS)
def test_the_notebooks_tell_the_committed_time_and_outcomes(name):
    notebook = nbformat.read(REPOSITORY / name, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "The run shown here trained for" in prose
    assert prose.count("After 5 epochs, with the unchanged notebook's figure in brackets:") == 4
    for folder in update_tables.FOLDERS:
        accuracy = fmnist.load_metrics(folder)["test"]["accuracy"]
        assert f"**{accuracy:.2%}**" in str(notebook), "the closing comparison is an older one"
    assert update_tables.updated_notebook(name) == notebook, "run: python tools/update_tables.py"


def test_the_study_of_the_recipe_shows_its_runs():
    """In a process of its own, since it imports PyTorch."""
    code = (
        "import json\nfrom benchmarks import tuning\n"
        "runs = json.loads(tuning.RESULTS.read_text())\n"
        "assert tuning.tables(runs) in tuning.STUDY.read_text()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_a_setting_of_the_study_that_is_wrong_is_named():
    for argument, message in {
        "epoch=5": "There is no setting 'epoch', only first_channels, ",
        "epochs=5x": "'epochs=5x': the value should be one such as 20.",
    }.items():
        command = [sys.executable, "benchmarks/tuning.py", argument]
        finished = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        assert finished.returncode == 1
        assert finished.stderr.startswith(message)


def test_the_readme_gives_mean_and_standard_deviation_over_five_seeds():
    if update_tables.summary_of_seeds() is None:
        pytest.skip("there is no study of the notebooks' present code")
    study = update_tables.benchmark("seeds")
    cells = []
    for framework in FRAMEWORKS:
        accuracies = [run["test"]["accuracy"] for run in study[framework.lower()]]
        assert len(accuracies) == 5
        cells.append(f"{statistics.mean(accuracies):.2%} ± {statistics.stdev(accuracies):.2%}")
    assert f"| mean ± standard deviation over 5 seeds | {' | '.join(cells)} |" in README


def test_the_results_say_which_aims_were_reached(monkeypatch):
    summary = {
        "pytorch": {
            "runs": 5,
            "accuracy": {"mean": 0.936, "standard_deviation": 0.0021},
            "loss": 0.2,
            "ece": 0.0151,
        },
        "tensorflow": {
            "runs": 5,
            "accuracy": {"mean": 0.9359, "standard_deviation": 0.002},
            "loss": 0.2001,
            "ece": 0.015,
        },
    }
    monkeypatch.setattr(update_tables, "summary_of_seeds", lambda: summary)
    monkeypatch.setattr(update_tables, "MOST_MINUTES", 0)
    rows = update_tables.results_with_aims().splitlines()
    place = rows.index(
        "| mean ± standard deviation over 5 seeds | 93.60% ± 0.21% | 93.59% ± 0.20% |"
    )
    assert rows[place + 1].endswith("| reached; not reached | not reached; reached |")
    assert rows[place + 2] == "| what we are after as the mean: 94.0% | not reached | not reached |"
    assert rows[place + 5].endswith(
        "0.20; 1.5% | 0.2000: reached; 1.51%: not reached | 0.2001: not reached; 1.50%: reached |"
    )
    assert "| our aim for it: at most 0 min | not reached | not reached |" in rows


def test_the_comparison_says_which_aims_for_an_epoch_were_reached(monkeypatch):
    of_both = [
        {"loading_share": 0.03, "share_of_gemm_rate": 0.6},
        {"loading_share": 0.029, "share_of_gemm_rate": 0.59},
    ]
    monkeypatch.setattr(update_tables, "profiles", lambda: of_both)
    report = update_tables.speed_report(update_tables.benchmark("speed"))
    assert "our aim: under 3% | 3.0%: not reached | 2.9%: reached |" in report
    assert "our aim: 60% | 60%: reached | 59%: not reached |" in report


def test_a_profile_of_other_code_is_left_out(monkeypatch):
    monkeypatch.setattr(update_tables, "code_sha256", lambda notebook: "another")
    assert update_tables.profiles() is None


DOCUMENTS = (*update_tables.DOCUMENTS, "CONTRIBUTING.md", "benchmarks/tuning.md")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_arrive(name):
    document = REPOSITORY / name
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", document.read_text(encoding="utf-8"))
    for link in links:
        assert (document.parent / link.partition("#")[0]).exists(), link


def test_the_readme_is_under_200_lines():
    assert len(README.splitlines()) < 200


def test_there_are_examples_for_all_three_formats():
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_readme_runs_as_it_stands(example, data):
    model_cell = cell_tagged("PyTorch", "model") if "import torch" in example else ""
    finished = subprocess.run(
        [sys.executable, "-c", f"{model_cell}\n{example}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    assert "['Ankle boot', 'Pullover', 'Trouser', 'Trouser', " in finished.stdout
    folder = REPOSITORY / "models" / ("tensorflow" if "import keras" in example else "pytorch")
    predictions = np.load(folder / "predictions.npz")["test"][:5]
    assert str([fmnist.CLASS_NAMES[label] for label in predictions]) in finished.stdout


@pytest.mark.parametrize("target", ["notebooks", "test", "validate", "lab", "format", "clean"])
def test_make_knows_what_the_readme_names(target):
    finished = subprocess.run(
        ["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr


def test_the_saved_notebooks_show_the_committed_results():
    """The notebook, metrics.json and so the README come from the same run."""
    for framework in FRAMEWORKS:
        test = fmnist.load_metrics(REPOSITORY / "models" / framework.lower())["test"]
        printed = "\n".join(
            output.get("text", "")
            for cell in read_notebook(framework).cells
            for output in cell.get("outputs", [])
        )
        assert f"test accuracy {test['accuracy']:.2%}" in printed
        assert f"test loss {test['loss']:.4f}" in printed
