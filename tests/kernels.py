"""Run notebooks in kernels of their own, on few images, in a folder where they may do harm."""

import hashlib
import os
import queue
import re
import shutil
import time

from jupyter_client.manager import KernelManager

from benchmarks.notebook import REPOSITORY, read, tagged

DATA = {"FMNIST_DATA": str(REPOSITORY / "data")}
# Code to put after the first cell tagged `load`.
FEW_IMAGES = """
data = fmnist.FashionMNIST(*(fmnist.Split(part.images[:n], part.labels[:n])
                             for part, n in zip(data, (1_000, 500, 500))))
"""
FIGURES = "history_figure = matrix_figure = mistakes_figure = fmnist.new_figure(1)"
WITHOUT_ONNX = "fmnist.installed = lambda *packages: False"


def project(folder, framework):
    """Copy what a notebook needs to a folder; return the folder."""
    shutil.copy(REPOSITORY / "fmnist_utils.py", folder)
    shutil.copytree(framework.models, folder / "models" / framework.key)
    return folder


def checksums(folder):
    """Return the SHA-256 of every file below a folder, by its path in there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def on_few_images(framework, settings=""):
    """Return a notebook, changed to use few images and to have some settings overridden."""
    notebook = read(framework)
    tagged(notebook, "load")[0].source += FEW_IMAGES
    tagged(notebook, "parameters")[0].source += f"\n{settings}"
    return notebook


class CellFailed(Exception):
    """A cell raised; the text has the name of its exception and the message."""


class KernelDied(Exception):
    """The process of a kernel has ended by itself."""


class Kernel:
    """A kernel in `folder`, whose temporary files go to ``folder / "temporary"``."""

    def __init__(self, folder, name="python3", **environment):
        self.temporary, self.stderr = folder / "temporary", ""
        self.temporary.mkdir(exist_ok=True)
        environment = {**os.environ, **DATA, "TMPDIR": str(self.temporary), **environment}
        self.manager = KernelManager(kernel_name=name)
        self.manager.start_kernel(cwd=str(folder), env=environment)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel()

    def run(self, *sources, interrupt_at=None):
        """Run cells one after the other; return what they print.

        When a cell prints what the regular expression `interrupt_at` finds, it is interrupted.
        """
        printed = []
        for source in sources:
            request = self.client.execute(source)
            for content in self.messages(request):
                if content.get("name") == "stdout":
                    printed.append(content["text"])
                    if interrupt_at and re.search(interrupt_at, content["text"]):
                        self.manager.interrupt_kernel()
                elif content.get("name") == "stderr":
                    self.stderr += content["text"]
            reply = self.client.get_shell_msg(timeout=60)["content"]
            if reply["status"] != "ok":
                raise CellFailed("{ename}: {evalue}".format(**reply))
        return "".join(printed)

    def messages(self, request):
        """Yield the contents of a cell's messages until it has ended, for ten minutes at most."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except queue.Empty:
                if not self.manager.is_alive():
                    raise KernelDied(self.stderr) from None
                continue
            if message["parent_header"].get("msg_id") == request:
                yield message["content"]
                if message["content"].get("execution_state") == "idle":
                    return
        raise TimeoutError("A cell has not ended within ten minutes.")

    def left_behind(self):
        """Return the temporary files that are worth speaking of: libraries leave a tiny one."""
        files = [path for path in self.temporary.rglob("*") if path.is_file()]
        return [path for path in files if path.stat().st_size > 1_000]


def in_colab(folder):
    """Stand in for Colab; return an empty folder and the environment variables.

    Its module is loaded everywhere. Its upload dialog says that it asks, and brings the helper.
    """
    package = folder / "stand-in" / "google" / "colab"
    package.mkdir(parents=True)  # google itself has no __init__: other packages are in it, too
    (package / "__init__.py").touch()
    (package / "files.py").write_text(
        "import shutil\n"
        "def upload():\n"
        "    print('Choose the helper')\n"
        f"    shutil.copy({str(REPOSITORY / 'fmnist_utils.py')!r}, 'fmnist_utils.py')\n"
    )
    (folder / "stand-in" / "sitecustomize.py").write_text("import google.colab\n")
    (folder / "content").mkdir()
    environment = {**os.environ, **DATA, "PYTHONPATH": str(folder / "stand-in")}
    return folder / "content", environment
