"""Both notebooks in JupyterLab, run by a real browser with one epoch.

Run it by `make browser-test`. Screenshots are left in build/browser/.
"""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENSHOTS = REPOSITORY / "build" / "browser"
NOTEBOOKS = ("FashionMNIST_PyTorch.ipynb", "FashionMNIST_TensorFlow.ipynb")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MINUTE = 60_000  # milliseconds, in which Playwright counts

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def free_port():
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return reserved.getsockname()[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Copy the notebooks and what they read."""
    folder = tmp_path_factory.mktemp("project")
    for name in (*NOTEBOOKS, "fmnist_utils.py"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "models", folder / "models")
    (folder / "data").symlink_to(REPOSITORY / "data")
    return folder


@pytest.fixture(scope="module")
def jupyterlab(project, tmp_path_factory):
    """Start JupyterLab with settings of its own; return its address."""
    settings = tmp_path_factory.mktemp("settings")
    overrides = settings / "lab" / "settings"
    overrides.mkdir(parents=True)
    (overrides / "overrides.json").write_text(
        json.dumps(
            {
                # All cells are to be in the page, not only those in view.
                "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
                "@jupyterlab/apputils-extension:notification": {
                    "checkForUpdates": False,
                    "fetchNews": "false",
                },
            }
        )
    )
    port, token = free_port(), secrets.token_hex(16)
    log = (settings / "jupyterlab.log").open("w")
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
            *("--ip", "127.0.0.1", "--port", str(port), "--IdentityProvider.token", token),
            f"--LabApp.app_settings_dir={overrides}",
        ],
        cwd=project,
        env={
            **os.environ,
            "FMNIST_EPOCHS": "1",
            "JUPYTER_CONFIG_DIR": str(settings / "config"),
            "JUPYTERLAB_SETTINGS_DIR": str(settings / "user"),
            "JUPYTERLAB_WORKSPACES_DIR": str(settings / "workspaces"),
        },
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}/{{}}?token={token}"
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address.format("api/status"), timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, (
                settings / "jupyterlab.log"
            ).read_text()
            time.sleep(0.2)
    yield address
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(timeout=30)
    log.close()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


def expected_figures(path):
    cells = nbformat.read(path, as_version=4).cells
    return sum(cell.source.count("fmnist.show(") for cell in cells if cell.cell_type == "code")


def wait_for_kernel(jupyterlab, name):
    """Wait until the server says so; the page shows a kernel as idle before it can be used."""
    deadline = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(jupyterlab.format("api/sessions"), timeout=5) as response:
            kernels = [
                session["kernel"] for session in json.load(response) if session["path"] == name
            ]
        if any(kernel["execution_state"] == "idle" and kernel["connections"] for kernel in kernels):
            return
        assert time.monotonic() < deadline, f"no kernel is ready: {kernels}"
        time.sleep(0.5)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_in_jupyterlab(name, jupyterlab, browser, project):
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    # In a workspace of its own, where JupyterLab does not open the other notebook again.
    page.goto(jupyterlab.format(f"lab/workspaces/{Path(name).stem}/tree/{name}"))
    notebook = page.locator(".jp-NotebookPanel:visible")
    code_cells = notebook.locator(".jp-CodeCell")
    wait_for_kernel(jupyterlab, name)
    # The kernel is new; a restart would now and then lose what is sent to it meanwhile.
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    training = code_cells.filter(has_text="trained for").locator(".jp-OutputArea-output")
    shown = set()
    prompt = code_cells.last.locator(".jp-InputPrompt")
    # Until the run begins, the prompts are those of the saved notebook.
    playwright.expect(prompt).to_have_text("[*]:", timeout=MINUTE)
    count = code_cells.count()
    deadline = time.monotonic() + 5 * 60
    while prompt.inner_text() != f"[{count}]:" or notebook.get_by_text("[*]:").count():
        assert time.monotonic() < deadline, f"the last cell is at {prompt.inner_text()}"
        shown.update(re.findall(r"training: +(\d+)%", "\n".join(training.all_inner_texts())))
        page.wait_for_timeout(250)

    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{Path(name).stem}.png")
    assert len(shown) >= 2, f"the progress bar did not move: {shown}"
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert notebook.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    figures = notebook.locator(".jp-RenderedImage img")
    assert figures.count() == expected_figures(REPOSITORY / name)
    for figure in figures.all():
        assert figure.evaluate("image => image.complete && image.naturalWidth") >= 800
    figures.last.scroll_into_view_if_needed()
    page.screenshot(path=SCREENSHOTS / f"{Path(name).stem}-last-figure.png")

    page.keyboard.press("Control+s")
    saved = project / name
    deadline = time.monotonic() + 60
    while "epoch 1/1" not in saved.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, "the notebook was not saved"
        page.wait_for_timeout(250)
    assert "widgets" not in nbformat.read(saved, as_version=4).metadata
    page.close()
