"""Both notebooks, up to their training on few images, in JupyterLab, run by a real browser.

Run it by `make browser-test`. Screenshots are left in build/browser/.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from kernels import on_few_images

from benchmarks.notebook import FRAMEWORKS, REPOSITORY

SCREENSHOTS = REPOSITORY / "build" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MINUTE = 60_000  # milliseconds, in which Playwright counts
SETTINGS = {
    # All cells are to be in the page, not only those in view.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
}

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def wait(condition, message):
    """Wait until `condition` returns something true, for two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, message
        time.sleep(0.25)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Make a folder with the notebooks, cut after their training, and the helper."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(REPOSITORY / "fmnist_utils.py", folder)
    for framework in FRAMEWORKS.values():
        notebook = on_few_images(framework, "EPOCHS = 2")
        while "train" not in notebook.cells[-1].metadata.get("tags", []):
            del notebook.cells[-1]
        nbformat.write(notebook, folder / framework.notebook.name)
    return folder


@pytest.fixture(scope="module")
def server(project, tmp_path_factory):
    """Start JupyterLab, without the user's settings; return a function that gives its addresses."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "overrides.json").write_text(json.dumps(SETTINGS))
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    token = secrets.token_hex(16)
    with (folder / "jupyterlab.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
                *("--ip", "127.0.0.1", "--port", str(port), "--IdentityProvider.token", token),
                f"--LabApp.app_settings_dir={folder}",
            ],
            cwd=project,
            env={
                **os.environ,
                "JUPYTER_CONFIG_DIR": str(folder / "config"),
                "JUPYTERLAB_SETTINGS_DIR": str(folder / "user"),
                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def address(path):
        return f"http://127.0.0.1:{port}/{path}?token={token}"

    def answers():
        try:
            return urllib.request.urlopen(address("api/status"), timeout=5)
        except OSError:
            return None

    wait(answers, "JupyterLab does not start")
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


def test_a_notebook_runs_in_jupyterlab(framework, server, project):
    path = project / framework.notebook.name
    before = path.read_bytes()

    def kernel_is_ready():  # the page says so before it is true
        with urllib.request.urlopen(server("api/sessions"), timeout=5) as response:
            kernels = [of["kernel"] for of in json.load(response) if of["path"] == path.name]
        return kernels and kernels[0]["execution_state"] == "idle" and kernels[0]["connections"]

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        # In a new workspace, where JupyterLab does not open the other notebook again.
        page.goto(server(f"lab/workspaces/{framework.key}/tree/{path.name}"))
        notebook = page.locator(".jp-NotebookPanel:visible")
        code_cells = notebook.locator(".jp-CodeCell")
        wait(kernel_is_ready, "the kernel does not start")
        # The kernel is new; a restart would now and then lose what is sent to it meanwhile.
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

        prompt = code_cells.last.locator(".jp-InputPrompt")
        # Until the run begins, the prompts are those of the saved notebook.
        playwright.expect(prompt).to_have_text("[*]:", timeout=2 * MINUTE)
        playwright.expect(prompt).to_have_text(f"[{code_cells.count()}]:", timeout=5 * MINUTE)
        playwright.expect(code_cells.last).to_contain_text("trained for")
        for unwanted in ("error", "stderr"):
            unwanted_type = f"[data-mime-type='application/vnd.jupyter.{unwanted}']"
            assert notebook.locator(unwanted_type).count() == 0
        figures = notebook.locator(".jp-OutputArea img")
        assert figures.count() == before.count(b"fmnist.show(") >= 2
        for figure in figures.all():
            assert figure.evaluate("image => image.complete && image.naturalWidth") >= 800
            assert len(figure.get_attribute("alt")) > 20
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        figures.last.scroll_into_view_if_needed()
        page.screenshot(path=SCREENSHOTS / f"{path.stem}.png")

        page.keyboard.press("Control+s")
        wait(lambda: path.read_bytes() != before, "the notebook was not saved")
        assert "widgets" not in nbformat.read(path, as_version=4).metadata
        browser.close()
