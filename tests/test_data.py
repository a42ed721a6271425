"""Fetching, loading and splitting the data, and everything that can go wrong in them."""

import gzip
import hashlib
import http.server
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fmnist_utils as fmnist

SMALL_FILES = {name: f"the content of {name} ".encode() * 500 for name in fmnist.DATA_SHA256}
VICTIM = "t10k-labels-idx1-ubyte"


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def root(monkeypatch, tmp_path):
    """Stand in small files for the data set, and no source that has them."""
    hashes = {name: digest(content) for name, content in SMALL_FILES.items()}
    monkeypatch.setattr(fmnist, "DATA_SHA256", hashes)
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", Path("/not-installed/fashion-mnist"))
    monkeypatch.setattr(fmnist, "MIRRORS", ())
    return tmp_path / "data"


@pytest.fixture
def raw(root):
    return root / "FashionMNIST" / "raw"


def put_archives(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in SMALL_FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return folder


def assert_complete(raw):
    assert {name: (raw / name).read_bytes() for name in SMALL_FILES} == SMALL_FILES
    assert not list(raw.glob(".*.partial")), "half-written files are left"


class Mirror:
    """A server on loopback that serves the small files, as told in `behaviour`."""

    def __init__(self):
        self.behaviour = "good"
        self.requests = []
        self.released = threading.Event()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[-1].removesuffix(".gz")
                mirror.requests.append(name)
                mirror.answer(self, gzip.compress(SMALL_FILES[name]))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def answer(self, handler, content):
        if self.behaviour == "missing":
            handler.send_error(404)
            return
        if self.behaviour == "wrong file":
            content = gzip.compress(b"somebody else's data")
        if self.behaviour == "not a gzip file":
            content = b"<html>Please log in to this network</html>"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        shown = {"truncated": len(content) // 2, "stalled": 10}.get(self.behaviour)
        handler.wfile.write(content[:shown])
        if self.behaviour == "stalled":
            handler.wfile.flush()
            self.released.wait(30)

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirror(root, monkeypatch):
    mirror = Mirror()
    monkeypatch.setattr(fmnist, "MIRRORS", (mirror.url,))
    monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 1))
    yield mirror
    mirror.close()


# What is loaded


def test_sizes_types_ranges_and_split(data, repository):
    assert [len(part.images) for part in data] == [55_000, 5_000, 10_000]
    for part in data:
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert part.images.shape == (len(part.labels), 28, 28)
        assert (part.images.min(), part.images.max()) == (0, 255)
        assert len(set(np.bincount(part.labels))) == 1, "all classes are equally frequent"
    assert digest(data.validation.images.tobytes()) == (
        "709442e429c3253b71eb184fdde965a0a52ff45feee61f28331ae197a0ff5688"
    ), "they are the same validation images in every run and version"
    raw = repository / "data/FashionMNIST/raw/train-images-idx3-ubyte"
    everything = np.fromfile(raw, np.uint8, offset=16).reshape(-1, 784)
    parts = np.concatenate([data.train.images, data.validation.images]).reshape(-1, 784)
    assert sorted(map(bytes, parts)) == sorted(map(bytes, everything))


@pytest.mark.parametrize("size", [10, 59_990])
def test_other_validation_sizes(repository, size):
    data = fmnist.load_fashion_mnist(repository / "data", validation_size=size)
    assert (len(data.train.labels), len(data.validation.labels)) == (60_000 - size, size)
    assert len(np.unique(data.validation.labels)) == 10


# The processor's time, since others may use the machine at the same time.


def test_a_warm_load_takes_under_half_a_second(repository, data):
    started = time.process_time()
    fmnist.load_fashion_mnist(repository / "data")
    assert time.process_time() - started < 0.5


def test_the_import_is_quick_and_brings_no_framework(repository):
    code = (
        "import sys, time; started = time.process_time(); import fmnist_utils; "
        "print(time.process_time() - started, {'torch', 'tensorflow', 'keras'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, stdout=-1, check=True)
    seconds, frameworks = done.stdout.decode().split(maxsplit=1)
    assert float(seconds) < 1.5
    assert frameworks.strip() == "set()"


# Where it comes from


def test_files_that_are_there_are_kept_and_nothing_is_asked_for(mirror, root, raw):
    raw.mkdir(parents=True)
    for name, content in SMALL_FILES.items():
        (raw / name).write_bytes(content)
    times = {name: (raw / name).stat().st_mtime_ns for name in SMALL_FILES}
    assert fmnist.fetch_fashion_mnist(root) == raw
    assert {name: (raw / name).stat().st_mtime_ns for name in SMALL_FILES} == times
    assert mirror.requests == []


@pytest.mark.parametrize("place", ["installed", "data/not-installed", "data/FashionMNIST/raw"])
def test_from_debians_package_or_archives_copied_by_hand(mirror, root, monkeypatch, place):
    folder = put_archives(root.parent / place / ("" if "raw" in place else "fashion-mnist"))
    if place == "installed":
        monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", folder)
    assert_complete(fmnist.fetch_fashion_mnist(root))
    assert mirror.requests == []


def test_a_damaged_debian_package_is_passed_over(mirror, root, monkeypatch, tmp_path):
    folder = put_archives(tmp_path / "installed")
    for archive in folder.iterdir():
        archive.write_bytes(archive.read_bytes()[:-30])
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", folder)
    assert_complete(fmnist.fetch_fashion_mnist(root))
    assert sorted(mirror.requests) == sorted(SMALL_FILES)


def test_from_a_mirror_with_a_progress_bar(mirror, root, capsys):
    assert_complete(fmnist.fetch_fashion_mnist(root))
    captured = capsys.readouterr()
    assert "train-images-idx3-ubyte" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    "behaviour", ["truncated", "wrong file", "not a gzip file", "stalled", "missing"]
)
def test_a_bad_mirror_is_reported_and_leaves_nothing(mirror, root, raw, behaviour):
    mirror.behaviour = behaviour
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="no source has it") as caught:
        fmnist.fetch_fashion_mnist(root)
    assert time.perf_counter() - started < 10
    assert mirror.url in str(caught.value)
    assert [path.name for path in raw.iterdir() if path.name != ".lock"] == []

    mirror.behaviour = "good"
    assert_complete(fmnist.fetch_fashion_mnist(root))


def test_the_second_mirror_serves_when_the_first_does_not(mirror, root, monkeypatch):
    bad = Mirror()
    bad.behaviour = "missing"
    monkeypatch.setattr(fmnist, "MIRRORS", (bad.url, mirror.url))
    assert_complete(fmnist.fetch_fashion_mnist(root))
    assert len(bad.requests) == 1
    bad.close()


def test_a_proxy_is_obeyed(mirror, root, monkeypatch):
    monkeypatch.setattr(fmnist, "MIRRORS", ("http://mirror.invalid/",))
    monkeypatch.setenv("http_proxy", mirror.url)
    assert_complete(fmnist.fetch_fashion_mnist(root))


def test_no_data_and_no_network(root, raw, monkeypatch):
    monkeypatch.setattr(fmnist, "MIRRORS", ("http://127.0.0.1:9/",))  # nobody listens there
    with pytest.raises(FileNotFoundError) as caught:
        fmnist.fetch_fashion_mnist(root)
    ways = ("apt-get install dataset-fashion-mnist", "copy the four files", "mirrors are")
    for part in (*ways, "HTTPS_PROXY", "REQUESTS_CA_BUNDLE", str(raw), "http://127.0.0.1:9/"):
        assert part in str(caught.value)


# What can go wrong with the files


@pytest.mark.parametrize("damaged", [b"", SMALL_FILES[VICTIM][:-1], b"X" + SMALL_FILES[VICTIM][1:]])
def test_a_damaged_file_is_set_aside_and_replaced(mirror, root, raw, damaged):
    fmnist.fetch_fashion_mnist(root)
    mirror.requests.clear()
    for number in (1, 2):  # the second must not overwrite the first
        (raw / VICTIM).write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"damaged.*renamed to {VICTIM}.damaged-{number}"):
            fmnist.fetch_fashion_mnist(root)
        assert_complete(raw)
        assert (raw / f"{VICTIM}.damaged-{number}").read_bytes() == damaged
    assert mirror.requests == [VICTIM] * 2


def test_a_damaged_file_that_cannot_be_replaced_is_reported(root, raw):
    raw.mkdir(parents=True)
    (raw / VICTIM).write_bytes(b"broken")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(FileNotFoundError, match=VICTIM):
        fmnist.fetch_fashion_mnist(root)
    assert (raw / f"{VICTIM}.damaged-1").read_bytes() == b"broken"


def test_a_killed_download_leaves_no_half_file_and_the_next_call_recovers(
    mirror, root, raw, monkeypatch
):
    mirror.behaviour = "stalled"
    monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 30))
    process = multiprocessing.get_context("fork").Process(
        target=fmnist.fetch_fashion_mnist, args=(root,)
    )
    process.start()
    deadline = time.monotonic() + 10
    while not mirror.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert mirror.requests, "the download had not begun"
    assert not [name for name in SMALL_FILES if (raw / name).exists()]

    mirror.behaviour = "good"
    assert_complete(fmnist.fetch_fashion_mnist(root))


def test_two_notebooks_starting_at_once(mirror, root):
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)

    def fetch():
        barrier.wait()
        assert_complete(fmnist.fetch_fashion_mnist(root))

    processes = [fork.Process(target=fetch) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(mirror.requests) == sorted(SMALL_FILES), "a file was fetched twice"


@pytest.mark.parametrize("part", ["data", "data/FashionMNIST", "data/FashionMNIST/raw"])
def test_a_file_in_the_way_is_named(root, part):
    file = root.parent / part
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("not a folder")
    with pytest.raises(OSError, match=f" {file} is a file. .*FMNIST_DATA.*DATA_DIR"):
        fmnist.fetch_fashion_mnist(root)
    assert file.read_text() == "not a folder"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("complete", [True, False])
def test_a_read_only_folder_is_enough_when_it_has_the_data(root, complete):
    root = Path(tempfile.mkdtemp())  # tmp_path may only be entered by its owner
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in SMALL_FILES.items() if complete else ():
        (raw / name).write_bytes(content)
    for folder in (raw, raw.parent, root):
        folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)  # root may write everywhere
    try:
        if complete:
            assert fmnist.fetch_fashion_mnist(root) == raw
        else:
            with pytest.raises(PermissionError, match=r"cannot be written .*FMNIST_DATA.*DATA_DIR"):
                fmnist.fetch_fashion_mnist(root)
    finally:
        os.seteuid(user)
        for folder in (root, raw.parent, raw):
            folder.chmod(0o755)
        shutil.rmtree(root)
