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


def digest(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def small_data(monkeypatch, tmp_path):
    """Stand in small files for the data set, and no source that has them."""
    hashes = {name: digest(content) for name, content in SMALL_FILES.items()}
    monkeypatch.setattr(fmnist, "DATA_SHA256", hashes)
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", tmp_path / "not-installed")
    monkeypatch.setattr(fmnist, "MIRRORS", ())
    return tmp_path / "data"


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
        if self.behaviour == "truncated":
            content = content[: len(content) // 2]
        if self.behaviour == "stalled":
            handler.wfile.write(content[:10])
            handler.wfile.flush()
            self.released.wait(30)
            return
        handler.wfile.write(content)

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirror(small_data, monkeypatch):
    mirror = Mirror()
    monkeypatch.setattr(fmnist, "MIRRORS", (mirror.url,))
    monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 1))
    yield mirror
    mirror.close()


# What is loaded


def test_sizes_types_and_ranges(data):
    assert [len(part.images) for part in data] == [55_000, 5_000, 10_000]
    for part in data:
        assert part.images.dtype == np.uint8
        assert part.images.shape[1:] == (28, 28)
        assert part.labels.dtype == np.int64
        assert part.labels.shape == (len(part.images),)
        assert (part.images.min(), part.images.max()) == (0, 255)


def test_validation_is_stratified(data):
    assert np.bincount(data.validation.labels).tolist() == [500] * 10
    assert np.bincount(data.train.labels).tolist() == [5_500] * 10


def test_training_and_validation_are_the_60000_images(data, repository):
    raw = repository / "data/FashionMNIST/raw/train-images-idx3-ubyte"
    everything = np.fromfile(raw, np.uint8, offset=16).reshape(-1, 784)
    parts = np.concatenate([data.train.images, data.validation.images]).reshape(-1, 784)
    assert sorted(map(bytes, parts)) == sorted(map(bytes, everything))


def test_the_split_is_the_same_in_every_run_and_version():
    labels = np.repeat(np.arange(10), 6_000)
    train, validation = fmnist.split_rows(labels)
    assert digest(validation.astype("<i8").tobytes()) == (
        "26ca7f5b4132e7fa2dedc840bee981511c7f7484357ecdf65e67ae8677fa1ce5"
    )
    assert len(np.intersect1d(train, validation)) == 0
    assert (np.diff(train) > 0).all() and (np.diff(validation) > 0).all()


@pytest.mark.parametrize("size", [10, 1_234, 59_990])
def test_other_validation_sizes(repository, size):
    data = fmnist.load_fashion_mnist(repository / "data", validation_size=size)
    assert (len(data.train.labels), len(data.validation.labels)) == (60_000 - size, size)
    assert len(np.unique(data.validation.labels)) == 10


@pytest.mark.parametrize("size", [-1, 0, 9, 59_991, 60_000, 0.1, "5000", None, True])
def test_validation_size_out_of_range(repository, size):
    with pytest.raises(ValueError, match=r"validation_size must be a whole number from 10 to 59,9"):
        fmnist.load_fashion_mnist(repository / "data", validation_size=size)


def test_a_warm_load_takes_under_half_a_second(repository, data):
    def seconds():
        started = time.perf_counter()
        fmnist.load_fashion_mnist(repository / "data")
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5


def test_the_import_is_quick_and_brings_no_framework(repository):
    code = (
        "import sys, time; started = time.perf_counter(); import fmnist_utils; "
        "print(time.perf_counter() - started, {'torch', 'tensorflow', 'keras'} & set(sys.modules))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
        ).stdout.split(maxsplit=1)
        for _ in range(3)
    ]
    assert min(float(seconds) for seconds, _ in runs) < 1.5
    assert all(frameworks.strip() == "set()" for _, frameworks in runs)


# Where it comes from


def test_files_that_are_there_are_kept_and_nothing_is_asked_for(mirror, small_data):
    raw = small_data / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in SMALL_FILES.items():
        (raw / name).write_bytes(content)
    times = {name: (raw / name).stat().st_mtime_ns for name in SMALL_FILES}
    assert fmnist.fetch_fashion_mnist(small_data) == raw
    assert {name: (raw / name).stat().st_mtime_ns for name in SMALL_FILES} == times
    assert mirror.requests == []


def test_from_the_installed_debian_package(mirror, small_data, monkeypatch, tmp_path):
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", put_archives(tmp_path / "installed"))
    assert_complete(fmnist.fetch_fashion_mnist(small_data))
    assert mirror.requests == []


def test_from_the_debian_package_unpacked_in_root(small_data, monkeypatch):
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", Path("/usr/share/not-there/fashion-mnist"))
    put_archives(small_data / "usr/share/not-there/fashion-mnist")
    assert_complete(fmnist.fetch_fashion_mnist(small_data))


def test_from_archives_copied_by_hand(small_data):
    put_archives(small_data / "FashionMNIST" / "raw")
    assert_complete(fmnist.fetch_fashion_mnist(small_data))


def test_a_damaged_debian_package_is_passed_over(mirror, small_data, monkeypatch, tmp_path):
    folder = put_archives(tmp_path / "installed")
    for archive in folder.iterdir():
        archive.write_bytes(archive.read_bytes()[:-30])
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", folder)
    assert_complete(fmnist.fetch_fashion_mnist(small_data))
    assert sorted(mirror.requests) == sorted(SMALL_FILES)


def test_from_a_mirror_with_a_progress_bar(mirror, small_data, capsys):
    assert_complete(fmnist.fetch_fashion_mnist(small_data))
    captured = capsys.readouterr()
    assert "train-images-idx3-ubyte" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    "behaviour", ["truncated", "wrong file", "not a gzip file", "stalled", "missing"]
)
def test_a_bad_mirror_is_reported_and_leaves_nothing(mirror, small_data, behaviour):
    mirror.behaviour = behaviour
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="no source has it") as caught:
        fmnist.fetch_fashion_mnist(small_data)
    assert time.perf_counter() - started < 10
    assert mirror.url in str(caught.value)
    raw = small_data / "FashionMNIST" / "raw"
    assert [path.name for path in raw.iterdir() if path.name != ".lock"] == []

    mirror.behaviour = "good"
    assert_complete(fmnist.fetch_fashion_mnist(small_data))


def test_the_second_mirror_serves_when_the_first_does_not(mirror, small_data, monkeypatch):
    bad = Mirror()
    bad.behaviour = "missing"
    monkeypatch.setattr(fmnist, "MIRRORS", (bad.url, mirror.url))
    assert_complete(fmnist.fetch_fashion_mnist(small_data))
    assert len(bad.requests) == 1
    bad.close()


def test_no_data_and_no_network(small_data, monkeypatch):
    with socket_that_refuses() as port:
        monkeypatch.setattr(fmnist, "MIRRORS", (f"http://127.0.0.1:{port}/",))
        with pytest.raises(FileNotFoundError) as caught:
            fmnist.fetch_fashion_mnist(small_data)
    message = str(caught.value)
    for way in ("apt-get install dataset-fashion-mnist", "copy the four files", "mirrors are"):
        assert way in message
    assert str(small_data / "FashionMNIST" / "raw") in message


class socket_that_refuses:
    """Reserve a port on which nobody listens."""

    def __enter__(self):
        import socket

        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        return self.socket.getsockname()[1]

    def __exit__(self, *_):
        self.socket.close()


# What can go wrong with the files


@pytest.mark.parametrize("damage", ["truncated", "one byte changed"])
def test_a_damaged_file_is_set_aside_and_replaced(mirror, small_data, damage):
    raw = fmnist.fetch_fashion_mnist(small_data)
    victim = raw / "t10k-labels-idx1-ubyte"
    content = bytearray(victim.read_bytes())
    if damage == "truncated":
        del content[-1:]
    else:
        content[100] ^= 1
    victim.write_bytes(content)
    mirror.requests.clear()
    with pytest.warns(UserWarning, match=r"damaged.*renamed to t10k-labels-idx1-ubyte.damaged-1"):
        fmnist.fetch_fashion_mnist(small_data)
    assert_complete(raw)
    assert (raw / "t10k-labels-idx1-ubyte.damaged-1").read_bytes() == content
    assert mirror.requests == ["t10k-labels-idx1-ubyte"]


def test_a_second_damaged_file_does_not_overwrite_the_first(mirror, small_data):
    raw = fmnist.fetch_fashion_mnist(small_data)
    for number in (1, 2):
        (raw / "t10k-labels-idx1-ubyte").write_bytes(b"broken %d" % number)
        with pytest.warns(UserWarning, match=f"damaged-{number}"):
            fmnist.fetch_fashion_mnist(small_data)
        aside = raw / f"t10k-labels-idx1-ubyte.damaged-{number}"
        assert aside.read_bytes() == b"broken %d" % number


def test_a_damaged_file_that_cannot_be_replaced_is_reported(small_data):
    raw = small_data / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"broken")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"),
    ):
        fmnist.fetch_fashion_mnist(small_data)
    assert (raw / "t10k-labels-idx1-ubyte.damaged-1").read_bytes() == b"broken"


def test_a_killed_download_leaves_no_half_file_and_the_next_call_recovers(
    mirror, small_data, monkeypatch
):
    mirror.behaviour = "stalled"
    monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 30))
    process = multiprocessing.get_context("fork").Process(
        target=fmnist.fetch_fashion_mnist, args=(small_data,)
    )
    process.start()
    raw = small_data / "FashionMNIST" / "raw"
    deadline = time.monotonic() + 10
    while not mirror.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert mirror.requests, "the download had not begun"
    assert not [name for name in SMALL_FILES if (raw / name).exists()]

    mirror.behaviour = "good"
    assert_complete(fmnist.fetch_fashion_mnist(small_data))


def test_two_notebooks_starting_at_once(mirror, small_data):
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)

    def fetch():
        barrier.wait()
        assert_complete(fmnist.fetch_fashion_mnist(small_data))

    processes = [fork.Process(target=fetch) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted(mirror.requests) == sorted(SMALL_FILES), "a file was fetched twice"


def test_root_is_a_file(small_data):
    small_data.write_text("not a folder")
    with pytest.raises(NotADirectoryError, match=r"is a file. Choose another"):
        fmnist.fetch_fashion_mnist(small_data)
    assert small_data.read_text() == "not a folder"


@pytest.fixture
def as_ordinary_user():
    """Drop root's rights, for which no folder is read-only, and give them back."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    yield
    os.seteuid(0)


@pytest.fixture
def read_only_root(small_data):
    # Not below tmp_path, which only its owner may enter.
    root = Path(tempfile.mkdtemp())
    (root / "FashionMNIST" / "raw").mkdir(parents=True)
    for folder in (root / "FashionMNIST" / "raw", root / "FashionMNIST", root):
        folder.chmod(0o555)
    yield root
    for folder in (root, root / "FashionMNIST", root / "FashionMNIST" / "raw"):
        folder.chmod(0o755)
    shutil.rmtree(root)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_without_the_data(read_only_root, as_ordinary_user):
    with pytest.raises(PermissionError, match=r"cannot be written.*Choose another"):
        fmnist.fetch_fashion_mnist(read_only_root)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_with_the_data_is_enough(read_only_root, small_data, request):
    raw = read_only_root / "FashionMNIST" / "raw"
    raw.chmod(0o755)
    for name, content in SMALL_FILES.items():
        (raw / name).write_bytes(content)
    raw.chmod(0o555)
    request.getfixturevalue("as_ordinary_user")
    assert fmnist.fetch_fashion_mnist(read_only_root) == raw
