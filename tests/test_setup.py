"""What sets the project up: the Makefile and the requirements."""

import os
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

from benchmarks.notebook import REPOSITORY

FOLDERS = ("", "tests/", "benchmarks/", "tests/browser/")
REQUIREMENTS = [f"{folder}requirements.txt" for folder in FOLDERS]
LACKING_IN_COLAB = {"jupyter", "onnx", "onnxruntime", "onnxscript", "tf2onnx"}
NOT_WITH_COLABS_PROTOBUF = {"onnx": "1.22.0"}  # what pip takes there instead


def versions(name):
    """Return the one version that each requirement in a file names."""
    lines = (REPOSITORY / name).read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if not line.startswith("#")]
    return {r.name: next(iter(r.specifier)).version for r in requirements}


def test_every_lower_bound_is_a_version_that_is_tested():
    pinned, colab = versions("constraints.txt"), versions("tests/colab.txt")
    required, *others = (versions(name) for name in REQUIREMENTS)
    assert required.keys() - colab.keys() == LACKING_IN_COLAB
    lowest = {**pinned, **NOT_WITH_COLABS_PROTOBUF, **colab}
    assert required == {name: lowest[name] for name in required}
    assert all(bounds.items() <= pinned.items() for bounds in others)


PYTHON = """#!/bin/sh
case "$*" in
    -V) echo Python %s;;
    "-m venv --clear .venv") echo made; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs make in a folder, with a stand-in for Python."""
    if os.name == "nt" or not shutil.which("make"):
        pytest.skip("there is no make")
    for name in ("Makefile", "constraints.txt", *REQUIREMENTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)

    def run(*arguments, version="3.12.1"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        python = tmp_path / "bin" / "python3"
        python.write_text(PYTHON % version)
        python.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        for name in ("MAKEFLAGS", "MAKELEVEL"):  # of a make that runs these tests
            environment.pop(name, None)
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(["make", *arguments], **options)

    return run


@pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
def test_make_names_the_versions_of_python_before_it_makes_anything(make, tmp_path, version):
    finished = make(f".venv/.ready-{version}", version=version)
    assert f"needs Python 3.11 to 3.13, and python3 is {version}.\n" in finished.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_makes_the_environment_of_another_interpreter_anew(make):
    made = [make(f".venv/.ready-{v}", version=v) for v in ("3.11.2", "3.12.1", "3.12.1")]
    assert [(f.returncode, "made" in f.stdout) for f in made] == [(0, True), (0, True), (0, False)]
