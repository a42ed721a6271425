"""The notebooks as documents: steps, tags, saved outputs; and short runs of them."""

import itertools
import re

import nbformat
import pytest

FRAMEWORKS = ("PyTorch", "TensorFlow")
STEPS = {
    "PyTorch": [
        "1. Import Libraries",
        "2. Define Model",
        "3. Load Data",
        "4. Instantiate Components",
        "5. Train Model",
        "6. Evaluate Model",
        "7. Visualize Results",
        "8. Export Trained Model",
    ],
    "TensorFlow": [
        "1. Import Libraries",
        "2. Load Data",
        "3. Define Model",
        "4. Compile Model",
        "5. Train Model",
        "6. Visualize Training Metrics",
        "7. Generate Evaluation Reports",
        "8. Export Trained Model",
    ],
}
TAGS = {"parameters", "model", "nbval-ignore-output"}


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return request.param


@pytest.fixture
def path(framework, repository):
    return repository / f"FashionMNIST_{framework}.ipynb"


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def headings(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"^(#+) (.+)$", prose, flags=re.MULTILINE)


def test_valid_format(notebook):
    nbformat.validate(notebook)


def test_under_two_megabytes(path):
    assert path.stat().st_size < 2_000_000


def test_one_title_and_the_eight_steps_in_order(notebook, framework):
    assert [title for level, title in headings(notebook) if level == "#"] == [
        f"Fashion-MNIST with {framework}"
    ]
    steps = [title for level, title in headings(notebook) if level == "##"]
    assert steps == [*STEPS[framework], "Now you"]


def test_headings_nest(notebook):
    levels = [len(level) for level, _ in headings(notebook)]
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))


def test_every_link_to_a_heading_arrives(notebook):
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    anchors = {title.lower().replace(" ", "-").replace(".", "") for _, title in headings(notebook)}
    links = re.findall(r"\]\(#([^)]+)\)", prose)
    assert len(links) >= 8
    assert {link.replace(".", "") for link in links} <= anchors


def test_one_parameters_and_one_model_cell(code):
    for tag in ("parameters", "model"):
        assert sum(tag in tags(cell) for cell in code) == 1


def test_no_misspelt_tags(code):
    assert {tag for cell in code for tag in tags(cell)} == TAGS


def test_no_widgets_in_the_metadata(notebook):
    assert "widgets" not in notebook.metadata


def test_cells_are_short(code):
    for cell in code:
        assert len(cell.source.splitlines()) <= 40, cell.source


def test_every_code_cell_is_introduced(notebook):
    for before, cell in itertools.pairwise(notebook.cells):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown" or before.source.startswith("def "), cell.source


def test_the_saved_outputs_are_of_one_complete_run(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_compared_cells_that_print_have_saved_outputs(code):
    """nbval passes a cell without a saved count, and one that prints without a saved output."""
    for cell in code:
        if "nbval-ignore-output" not in tags(cell):
            assert cell.execution_count
        if re.search(r"^ *(print|display|fmnist\.show)\(", cell.source, flags=re.MULTILINE):
            prints_elsewhere = cell.source.startswith(("def ", "class ")) or "colab" in cell.source
            assert cell.outputs or prints_elsewhere, cell.source


def test_no_errors_and_nothing_on_stderr_in_the_saved_outputs(code):
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_progress_bars_leave_nothing(code):
    for cell in code:
        for output in cell.outputs:
            assert "\r" not in output.get("text", "")


def test_every_figure_has_an_alternative_text(code):
    pictures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 4
    for picture in pictures:
        assert len(picture.metadata["image/png"]["alt"]) > 20


def test_no_path_of_a_developers_machine(path):
    assert not re.search(r"/(root|home|work|Users)/", path.read_text(encoding="utf-8"))


def test_the_full_run_trained_as_it_says(code):
    lines = "\n".join(output.get("text", "") for cell in code for output in cell.outputs)
    epochs = re.findall(r"^epoch +(\d+)/(\d+) ", lines, flags=re.MULTILINE)
    total = int(epochs[0][1])
    assert epochs == [(str(number), str(total)) for number in range(1, total + 1)]


def test_both_notebooks_have_the_same_settings(repository):
    cells = []
    for framework in FRAMEWORKS:
        notebook = nbformat.read(repository / f"FashionMNIST_{framework}.ipynb", as_version=4)
        cells.append(next(cell.source for cell in notebook.cells if "parameters" in tags(cell)))
    assert cells[0] == cells[1]
