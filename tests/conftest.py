"""Fixtures that several test modules share."""

import pytest

import fmnist_utils as fmnist
from benchmarks.notebook_code import REPOSITORY


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def data():
    """Return the real data set, which the set-up has fetched."""
    return fmnist.load_fashion_mnist(REPOSITORY / "data")
