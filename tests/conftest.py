"""Fixtures that several test modules share."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import fmnist_utils as fmnist  # noqa: E402


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def data():
    """Return the real data set, which the set-up has fetched."""
    return fmnist.load_fashion_mnist(REPOSITORY / "data")
