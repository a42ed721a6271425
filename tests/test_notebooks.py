"""The notebooks as documents: steps, tags, what is saved in them, and what both have alike."""

import ast
import re
import subprocess

import nbformat
import pytest
from nbconvert import HTMLExporter

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, TAGS, cells, read

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
def outputs(code):
    return [output for cell in code for output in cell.outputs]


@pytest.fixture
def prose(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_the_format_is_valid_and_has_no_widgets(notebook):
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata, "GitHub would not show the notebook"


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
    assert tags[:2] == [["import"], ["colab"]]
    assert sum("parameters" in tags_of_cell for tags_of_cell in tags) == 1


def test_the_settings_are_literals(notebook):
    (settings,) = cells(notebook, "parameters")
    for statement in ast.parse(settings).body:
        assert isinstance(statement, ast.Assign)
        ast.literal_eval(statement.value)
    assert "environ[" not in settings


def test_cells_and_paragraphs_are_short(code, prose):
    for cell in code:
        assert len([line for line in cell.source.splitlines() if line]) <= 20, cell.source
    for paragraph in prose.split("\n\n"):
        assert len(paragraph.split()) <= 90, paragraph


def test_no_exercise_outlives_its_cell(prose):
    """One that patches a framework's module would still be at work after its cell is deleted."""
    exercises = prose.partition("## Now you")[2]
    printed = re.findall(r"^ {7}.*$", exercises, flags=re.MULTILINE)
    assert len(printed) > 10
    assert not [line for line in printed if re.match(r" *[\w.]+\.\w+ =", line)]


def test_one_complete_run_is_saved_with_what_it_printed(code):
    """Also, nbval does not compare a cell without a count."""
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        prints = re.search(r"^(print|fmnist\.show)\(", cell.source, flags=re.MULTILINE)
        assert cell.outputs or not prints, cell.source


def test_the_saved_run_is_a_full_one(outputs, notebook):
    printed = "\n".join(output.get("text", "") for output in outputs)
    (settings,) = cells(notebook, "parameters")
    full_run = int(re.search(r"EPOCHS = (\d+)", settings)[1])
    epochs = {int(number) for number in re.findall(r"[Ee]poch +(\d+)", printed)}
    assert epochs | {1} == set(range(1, full_run + 1))  # Keras does not number a single epoch


def test_nothing_unseemly_is_saved(outputs, framework):
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        assert "\r" not in output.get("text", ""), "a progress bar left its traces"
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
    anonymous = [
        {
            cell.id.removeprefix(f"{framework.key}-"): cell.source.replace(framework.name, "It")
            .replace(framework.key, "it")
            .replace("history.history", "history")
            for cell in read(framework).cells
        }
        for framework in FRAMEWORKS.values()
    ]
    for name in ALIKE:
        assert len({of_one[name] for of_one in anonymous}) == 1, name


@pytest.mark.skipif(not (REPOSITORY / ".venv").is_dir(), reason="it is not run by make")
def test_make_runs_notebooks_without_warnings(tmp_path):
    cell = nbformat.v4.new_code_cell("print(1)")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "toy.ipynb")
    show = ["make", "--silent", "--eval", "show: ; @echo $(RUN)", "show"]
    command = subprocess.check_output(show, cwd=REPOSITORY, text=True).split()
    command += ["--execute", tmp_path / "toy.ipynb"]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
