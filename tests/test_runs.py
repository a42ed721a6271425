"""The same seed gives the same bits: each notebook in two processes, on few images."""

import os
import subprocess
import sys

from kernels import DATA, FEW_IMAGES

from benchmarks.notebook import REPOSITORY, TAGS, code

DIGEST = """
import hashlib
print("digest:", history, hashlib.sha256(test_probabilities.tobytes()).hexdigest())
"""
OTHER_SEED = 'os.environ["FMNIST_SEED"] = "1"\n'


def test_the_same_seed_gives_the_same_bits(framework):
    once = code(framework, *TAGS[: TAGS.index("export")], after={"load": FEW_IMAGES}) + DIGEST
    command = [sys.executable, "-c", once + OTHER_SEED + once]
    environment = {**os.environ, **DATA, "FMNIST_SEED": "0", "FMNIST_EPOCHS": "2"}
    processes = [
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0].splitlines() for process in processes]
    first, second = ([line for line in of_one if line.startswith("digest:")] for of_one in printed)
    assert first == second
    with_seed_0, with_seed_1 = first
    assert with_seed_0 != with_seed_1
