"""Write all measured figures in the documents and notebooks anew, from the files of results.

They stand between the comments ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    python -m tools.update_tables
"""

import importlib
import re
from pathlib import Path

import nbformat

from benchmarks import exercises, frontier, runner, seeds
from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from tools import tables

NOTEBOOKS = {framework.notebook: framework for framework in FRAMEWORKS.values()}
DOCUMENTS = (
    REPOSITORY / "README.md",
    REPOSITORY / "docs" / "frameworks.md",
    REPOSITORY / "models" / "README.md",
    *sorted((REPOSITORY / "benchmarks").glob("*.md")),
    *NOTEBOOKS,
)
# "Colab" is written by set_colab_address.py.
BLOCK = re.compile(r"<!-- (?P<name>(?!Colab)[^>]+) -->\n.*?<!-- end of (?P=name) -->", re.DOTALL)


def over_seeds() -> dict[str, list[str]]:
    """Return the row of the study over seeds, for the table of results."""
    runs = seeds.runs_by_framework()
    if runs is None:
        return {"mean over seeds": ["not measured yet"] * len(FRAMEWORKS)}
    means = [runner.means(of_one, "test") for of_one in runs.values()]
    cells = [f"{own['accuracy']:.2%} ± {own['deviation']:.2%}" for own in means]
    return {f"mean ± standard deviation over {len(seeds.TASKS) // len(FRAMEWORKS)} seeds": cells}


def of_the_frontier() -> dict[str, list[str]]:
    """Return the rows of the frontier's cheapest and dearest point, none before it is measured."""
    found = list(frontier.points().values())
    if None in found:
        return {}
    rows = {}
    for of_both in (found[: len(FRAMEWORKS)], found[-len(FRAMEWORKS) :]):
        means = [runner.means(runs, "test") for runs in of_both]
        run = of_both[0][0]
        size = f"{run['settings']['EPOCHS']} epochs, {run['parameters'] / 1e6:.1f} M parameters"
        rows[f"instead with {size}, mean of {len(of_both[0])}"] = [
            f"{own['accuracy']:.2%} in {own['minutes']:.1f} minutes on {run['processor']}"
            for own in means
        ]
    return rows


def suspects() -> str:
    """Say how many of the 70,000 labels are suspect."""
    found = runner.committed("labels")
    share = (len(found["training"]) + len(found["test"])) / 70_000
    return (
        "Look at each and ask who is right, the model or the label. Models that have not seen the "
        f"images firmly disagree with {share:.1%} of all labels: [some of these are wrong]"
        "(benchmarks/labels.md), others cannot be told at 28 pixels."
    )


BLOCKS = {
    "results": lambda: tables.results(over_seeds(), of_the_frontier()),
    "model card": lambda: tables.results(over_seeds(), tables.details()),
    "verified": tables.verified,
    "McNemar": tables.comparison,
    "per-class accuracy": tables.per_class,
    "no clothes": tables.no_clothes,
    "harder": tables.harder,
    "suspects": suspects,
}


def content(document: Path, name: str) -> str:
    """Return what belongs in a document's block; a study's document has the table of its module."""
    if document.parent.name == "benchmarks":
        return importlib.import_module(f"benchmarks.{name}").table()
    if name in BLOCKS:
        return BLOCKS[name]()
    framework = NOTEBOOKS[document]
    if name == "time":
        return tables.training_time(framework)
    return exercises.outcomes(framework.key)[name]


def updated(document: Path) -> str:
    """Return a document or notebook with its blocks written anew."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name} -->\n{content(document, name)}\n<!-- end of {name} -->"

    text = document.read_text(encoding="utf-8")
    if document not in NOTEBOOKS:
        return BLOCK.sub(block, text)
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = BLOCK.sub(block, cell.source)
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(updated(document), encoding="utf-8")
