"""Fixtures that several test modules share."""

import multiprocessing
import os

import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS, REPOSITORY


@pytest.fixture(params=FRAMEWORKS.values(), ids=FRAMEWORKS)
def framework(request):
    """Return a row of the table of frameworks; the test runs once for each."""
    return request.param


@pytest.fixture
def fork():
    """Return what starts a copy of this process, where the system can."""
    if not hasattr(os, "fork"):
        pytest.skip("the system cannot fork")
    return multiprocessing.get_context("fork")


@pytest.fixture(scope="session")
def repository():
    return REPOSITORY


@pytest.fixture(scope="session")
def data():
    """Return the real data set, which the set-up has fetched."""
    return fmnist.load_fashion_mnist(REPOSITORY / "data")
