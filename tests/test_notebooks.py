"""The notebooks as documents: steps, tags, what is saved in them, and what both have alike."""

import re
import subprocess

import nbformat
import pytest

from benchmarks.notebook import FRAMEWORKS, REPOSITORY, TAGS, cells, read

STEPS = {
    "pytorch": "Import Libraries, Define Model, Load Data, Instantiate Components, Train Model, "
    "Evaluate Model, Visualize Results, Export Trained Model",
    "tensorflow": "Import Libraries, Load Data, Define Model, Compile Model, Train Model, "
    "Visualize Training Metrics, Generate Evaluation Reports, Export Trained Model",
}
# The cells that are the same in both, but for the frameworks' names.
ALIKE = """
    import-text colab settings-text settings load samples augmented-text schedule-text
    rest-text rest rest-seen one report-text report test test-seen history matrix mistakes-text
    mistakes record-text
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
    ]


def test_the_tags_are_those_that_programs_look_for(code):
    tags = [cell.metadata.get("tags", []) for cell in code]
    assert set().union(*tags) == {*TAGS, "nbval-ignore-output"}
    assert tags[0] == ["colab"]
    assert sum("parameters" in of_cell for of_cell in tags) == 1


def test_cells_and_paragraphs_are_short(code, prose):
    for cell in code:
        lines = [line for line in cell.source.splitlines() if line]
        assert len(lines) <= (12 if cell is code[0] else 20), cell.source
    for paragraph in prose.split("\n\n"):
        assert len(paragraph.split()) <= 90, paragraph


def test_one_complete_run_is_saved_with_what_it_printed(code):
    """Also, nbval does not compare a cell without a count."""
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        prints = re.search(r"^(print|fmnist\.show)\(", cell.source, flags=re.MULTILINE)
        assert cell.outputs or not prints, cell.source


def test_the_saved_run_is_a_full_one(outputs, notebook):
    printed = "\n".join(output.get("text", "") for output in outputs)
    (settings,) = cells(notebook, "parameters")
    full_run = int(re.search(r"FULL_RUN = (\d+)", settings)[1])
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


def test_every_figure_has_an_alternative_text(outputs, code):
    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(figures) == sum(cell.source.count("fmnist.show(") for cell in code)
    for figure in figures:
        assert len(figure.metadata["image/png"]["alt"]) > 20


def test_both_say_the_same_where_the_frameworks_agree():
    anonymous = [
        {
            cell.id.removeprefix(f"{framework.key}-"): cell.source.replace(framework.name, "It")
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
