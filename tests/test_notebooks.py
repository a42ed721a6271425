"""The notebooks as documents: steps, tags, what is saved in them, and what both have alike."""

import ast
import re

import nbformat
import pytest
from nbconvert import HTMLExporter

from benchmarks.notebook import FRAMEWORKS, TAGS, cells, read
from benchmarks.runner import default_settings

STEPS = {
    "pytorch": "Import Libraries, Define Model, Load Data, Instantiate Components, Train Model, "
    "Evaluate Model, Visualize Results, Export Trained Model",
    "tensorflow": "Import Libraries, Load Data, Define Model, Compile Model, Train Model, "
    "Visualize Training Metrics, Generate Evaluation Reports, Export Trained Model",
}
# The cells that are the same in both, but for the frameworks' names.
ALIKE = """
    import-text settings-text settings load samples map-text shapes-seen baselines-text compare
    rest-text history-seen one report-text report matrix-text matrix mistakes-text mistakes
    mistakes-seen test-text test test-seen onnx-text record-text
""".split()


@pytest.fixture
def notebook(framework):
    return read(framework)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture
def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_one_title_and_the_eight_steps_in_order(prose, framework):
    steps = STEPS[framework.key].split(", ")
    assert re.findall("^#+ .+$", prose, flags=re.MULTILINE) == [
        f"# Fashion-MNIST with {framework.name}",
        *(f"## {number}. {step}" for number, step in enumerate(steps, 1)),
        "## Now you",
        "## Where next",
    ]


def test_the_tags_are_those_that_programs_look_for(code):
    tags = [cell.metadata.get("tags", []) for cell in code]
    assert set().union(*tags) == {*TAGS, "baselines", "nbval-ignore-output"}
    assert sum("parameters" in tags_of_cell for tags_of_cell in tags) == 1


def test_the_settings_are_literals(notebook):
    (settings,) = cells(notebook, "parameters")
    for statement in ast.parse(settings).body:
        ast.literal_eval(statement.value)


def test_one_full_run_is_saved_without_errors_warnings_or_private_paths(notebook, code, framework):
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata, "GitHub would not show the notebook"
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        prints = re.search(r"^(print|fmnist\.show)\(", cell.source, flags=re.MULTILINE)
        assert cell.outputs or not prints, cell.source
    outputs = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    printed = "\n".join(output.get("text", "") for output in outputs)
    assert "\r" not in printed, "a progress bar left its traces"
    epochs = {int(number) for number in re.findall(r"[Ee]poch +(\d+)", printed)}
    full_run = default_settings(framework)["EPOCHS"]
    assert epochs | {1} == set(range(1, full_run + 1))  # Keras does not number a single epoch
    text = framework.notebook.read_text(encoding="utf-8")
    assert not re.search(r"/(root|home|work|Users|site-packages)/", text)
    assert len(text) < 1_000_000, "web pages do not show larger ones reliably"


def test_every_figure_has_an_alternative_text_on_a_web_page(notebook, code):
    page, _ = HTMLExporter().from_notebook_node(notebook)
    texts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(texts) == sum(cell.source.count("fmnist.show(") for cell in code)
    assert min(map(len, texts)) > 20
    assert "No description has been provided" not in page


def test_both_say_the_same_where_the_frameworks_agree():
    ours, theirs = (
        {cell.id.removeprefix(f"{key}-"): cell.source for cell in read(framework).cells}
        for key, framework in FRAMEWORKS.items()
    )
    for name in ALIKE:
        for framework in FRAMEWORKS.values():
            for word in (framework.name, framework.key):
                ours[name], theirs[name] = (c[name].replace(word, "…") for c in (ours, theirs))
        assert ours[name] == theirs[name].replace("history.history", "history"), name
