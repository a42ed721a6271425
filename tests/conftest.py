"""Fixtures that several test modules share."""

import re

import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY, read


@pytest.fixture(params=FRAMEWORKS.values(), ids=FRAMEWORKS)
def framework(request):
    """Return a row of the table of frameworks; the test runs once for each."""
    return request.param


@pytest.fixture(scope="session")
def data():
    """Return the real data set, which the set-up has fetched."""
    return fmnist.load_fashion_mnist(REPOSITORY / "data")


@pytest.fixture(scope="session")
def notebooks():
    """Return by framework the names that the notebook's cells define before `instantiate`.

    PyTorch's also have the functions of docs/frameworks.md that move weights.
    """
    import torch._dynamo  # noqa: F401 (first: after TensorFlow its LLVM aborts)

    everything = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmnist, "show", lambda figure, alt: None)
        for key, framework in FRAMEWORKS.items():
            names = everything[key] = {}
            for cell in read(framework).cells:
                tags = cell.metadata.get("tags", [])
                if "instantiate" in tags:
                    break
                if cell.cell_type == "code":
                    exec(cell.source, names)
                if "parameters" in tags:
                    names["DATA_DIR"] = REPOSITORY / "data"
    document = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
    (move,) = re.findall(r"```python\n(def learned.*?)```", document, re.DOTALL)
    exec(move, everything["pytorch"])
    return everything


@pytest.fixture
def float64(notebooks):
    """Compute in float64, where rounding cannot hide or feign a difference."""
    import keras
    import torch

    for floats in ("float64", "float32"):
        torch.set_default_dtype(getattr(torch, floats))
        keras.config.set_floatx(floats)
        keras.config.set_dtype_policy(floats)
        if floats == "float64":
            yield
