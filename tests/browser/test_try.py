"""The quiz docs/try.html in a real browser, with npm's copy of the runtime in place of the CDN's.

Run it by `make browser-test`. Screenshots are left in build/browser/.
"""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading

import numpy as np
import onnxruntime
import pytest

from benchmarks.notebook import FRAMEWORKS, REPOSITORY
from tools import try_page

BUILD = REPOSITORY / "build"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUNTIME = BUILD / "npm" / "node_modules" / "onnxruntime-web" / "dist"
NPM = shutil.which("npm")
PAGE = REPOSITORY / "docs" / "try.html"
STORED = PAGE.with_suffix(".json").read_text(encoding="utf-8")
IMAGES = {image["row"]: image for image in json.loads(STORED)["images"]}
SCROLLS = "root => root.scrollWidth > innerWidth || root.scrollHeight > innerHeight"
PROBABILITIES = "bars => bars.map(bar => Number(bar.dataset.probability))"
HEADERS = {"access-control-allow-origin": "*", "content-type": "text/javascript"}

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(not (CHROMIUM and NPM), reason="Chromium or npm is missing")


@pytest.fixture(scope="module")
def visit():
    """Fetch the runtime and serve the repository; return what opens the quiz in a browser."""
    package = re.search(r"npm/(onnxruntime-web@[\d.]+)/", PAGE.read_text(encoding="utf-8"))[1]
    options = ["--prefix", BUILD / "npm", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run([NPM, "install", *options, package], check=True)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=REPOSITORY)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def visit(width, more=b""):
        """Let the CDN answer with npm's files and `more` bytes; with None, not at all."""

        def answer(route):
            if more is None:
                return route.abort()
            file = RUNTIME / route.request.url.rpartition("/")[2]
            route.fulfill(body=file.read_bytes() + more, headers=HEADERS)

        telephone = dict.fromkeys(["is_mobile", "has_touch"], width == 390)
        page = browser.new_page(viewport={"width": width, "height": 800}, **telephone)
        page.route("https://cdn.jsdelivr.net/**", answer)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(error))
        page.goto(f"http://127.0.0.1:{server.server_port}/docs/try.html")
        return page

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield visit
    server.shutdown()


def guess(page, choice):
    """Guess by keyboard or touch; return the image's row and the models' answers, all in view."""
    button, width = page.locator("#choices button").nth(choice), page.viewport_size["width"]
    playwright.expect(button).to_be_enabled()
    button.tap() if width == 390 else page.keyboard.press("1234567890"[choice])
    playwright.expect(page.locator("#next")).to_be_enabled(timeout=60_000)
    assert not page.locator("html").evaluate(SCROLLS)
    answers = [page.locator(f".bar.{key}").evaluate_all(PROBABILITIES) for key in FRAMEWORKS]
    return int(page.locator("#picture").get_attribute("data-row")), answers


def test_the_images_and_stored_answers_are_what_the_tool_writes():
    old, new = json.loads(STORED), json.loads(json.dumps(try_page.content()))
    stored = [[list(i.pop("stored").values()) for i in c["images"]] for c in (old, new)]
    assert old == new, "run: python -m tools.try_page"
    np.testing.assert_allclose(*stored, atol=2e-4)  # another processor rounds differently


@pytest.mark.parametrize("width", [1200, 390])
def test_a_visitor_guesses_and_the_models_answer_as_in_python(visit, width, data):
    page, rows, answers = visit(width), [], []
    for number in range(len(IMAGES)):
        row, answer = guess(page, number % 10)
        rows.append(row)
        answers.append(answer)
        score = page.locator("#score td").all_inner_texts()
        if number == 0:
            page.screenshot(path=BUILD / "browser" / f"try-{width}-answer.png")
        page.keyboard.press("Enter")
    page.screenshot(path=BUILD / "browser" / f"try-{width}-end.png")
    assert sorted(rows) == sorted(IMAGES)
    said = [np.arange(len(rows)) % 10]
    for framework, of_model in zip(FRAMEWORKS.values(), np.swapaxes(answers, 0, 1)):
        session = onnxruntime.InferenceSession(framework.models / "model.onnx")
        (expected,) = session.run(None, {"image": data.test.images[rows]})
        np.testing.assert_allclose(of_model, expected, atol=1e-4)
        said.append(expected.argmax(axis=1))
    agreed = np.array(said) == data.test.labels[rows]
    assert score == [f"{right.sum()} of {len(rows)}" for right in agreed]
    kinds = np.array([IMAGES[row]["kind"] for row in rows])
    groups = [kinds == kind for kind in ("random", "mistake", "suspect")]
    by_kind = [f"{right[group].sum()} of {group.sum()}" for group in groups for right in agreed]
    assert page.locator("td").all_inner_texts() == by_kind
    assert not page.complaints


@pytest.mark.parametrize(("width", "more"), [(1200, None), (390, b" ")], ids=["none", "changed"])
def test_without_the_runtime_the_page_says_so_and_shows_stored_answers(visit, width, more):
    page = visit(width, more)
    playwright.expect(page.locator("#status")).to_contain_text("could not be fetched")
    for number in range(len(IMAGES)):
        row, answers = guess(page, number % 10)
        assert answers == list(IMAGES[row]["stored"].values())
        page.keyboard.press("Enter")
