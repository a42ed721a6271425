"""Loading and splitting the data, and everything that can go wrong in it."""

import errno
import gzip
import hashlib
import http.server
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

import fmnist_utils as fmnist
from benchmarks.notebook import REPOSITORY

RANDOM = np.random.default_rng(0)
SMALL_FILES = {}
for part, count in (("train", 200), ("t10k", 40)):
    SMALL_FILES[f"{part}-images-idx3-ubyte"] = bytes(16) + RANDOM.bytes(count * 784)
    SMALL_FILES[f"{part}-labels-idx1-ubyte"] = bytes(8) + bytes(range(10)) * (count // 10)
ARCHIVES = {f"{name}.gz": gzip.compress(content) for name, content in SMALL_FILES.items()}
VICTIM = "t10k-labels-idx1-ubyte.gz"
WRONG = {"wrong file": gzip.compress(b"other data"), "not a gzip file": b"<html>Please log in"}


@pytest.fixture
def root(monkeypatch, tmp_path):
    """Put small files in the place of the data set; no source has them yet."""
    hashes = {name: hashlib.sha256(SMALL_FILES[name]).hexdigest() for name in fmnist.DATA_SHA256}
    monkeypatch.setattr(fmnist, "DATA_SHA256", hashes)
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", Path("/not-installed/fashion-mnist"))
    monkeypatch.setattr(fmnist, "MIRRORS", ())
    return tmp_path / "data"


def put_archives(folder, length=None):
    folder.mkdir(parents=True)
    for name, content in ARCHIVES.items():
        (folder / name).write_bytes(content[:length])
    return folder


def load(root):
    """Load the small data set and make sure that it is right."""
    data = fmnist.load_fashion_mnist(root, validation_size=10)
    assert data.test.images.tobytes() == SMALL_FILES["t10k-images-idx3-ubyte"][16:]
    assert [len(part.labels) for part in data] == [190, 10, 40]


def names_in(folder):
    return {path.name for path in folder.glob("*")}


class Server(http.server.BaseHTTPRequestHandler):
    """Serves the small files on loopback, each mirror as the server's `behaviour` has it."""

    def do_GET(self):
        _, mirror, name = self.path.rsplit("/", 2)
        self.server.requests.append(name)
        behaviour = self.server.behaviour.get(mirror)
        content = WRONG.get(behaviour, ARCHIVES[name])
        self.send_response(404 if behaviour == "missing" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: 10 if behaviour in ("truncated", "stalled") else None])
        if behaviour == "stalled":
            time.sleep(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirrors(root, monkeypatch):
    """Start a server with two mirrors, of which the first is asked first."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.behaviour, server.requests = {}, []
        server.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        monkeypatch.setattr(fmnist, "MIRRORS", (f"{server.url}first/", f"{server.url}second/"))
        monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 1))
        yield server
        server.shutdown()


def test_sizes_types_ranges_and_split(data):
    assert [len(part.images) for part in data] == [55_000, 5_000, 10_000]
    for part in data:
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert part.images.shape == (len(part.labels), 28, 28)
        assert (part.images.min(), part.images.max()) == (0, 255)
        assert len(set(np.bincount(part.labels))) == 1, "all classes are equally frequent"
    same_in_every_run = "709442e429c3253b71eb184fdde965a0a52ff45feee61f28331ae197a0ff5688"
    assert hashlib.sha256(data.validation.images.tobytes()).hexdigest() == same_in_every_run
    archive = (REPOSITORY / "data" / "train-images-idx3-ubyte.gz").read_bytes()
    everything = np.frombuffer(gzip.decompress(archive), np.uint8, offset=16).reshape(-1, 784)
    parts = np.concatenate([data.train.images, data.validation.images]).reshape(-1, 784)
    assert sorted(map(bytes, parts)) == sorted(map(bytes, everything))


def test_the_import_brings_no_framework():
    code = "import sys, fmnist_utils\nassert not {'torch', 'tensorflow', 'keras'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize("place", ["installed", "copied by hand"])
def test_from_debians_package_or_archives_copied_by_hand(mirrors, root, monkeypatch, place):
    folder = put_archives(root if place == "copied by hand" else root.parent / place)
    if place == "installed":
        monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", folder)
    load(root)
    assert mirrors.requests == []
    assert root.exists() == (folder == root), "nothing is written"


@pytest.mark.parametrize("size", [-1, 9, 59_991, 2.5])
def test_sizes_of_validation_that_make_no_sense(size):
    with pytest.raises(ValueError, match=f"whole number from 10 to 59,990; it is {size!r}"):
        fmnist.load_fashion_mnist("nowhere", size)


def test_a_mirror_behind_a_proxy_with_a_progress_bar_below_home(mirrors, root, monkeypatch, capfd):
    monkeypatch.setattr(fmnist, "MIRRORS", ("http://mirror.invalid/",))
    home = str(root.parent)
    for name, value in (("http_proxy", mirrors.url), ("HOME", home), ("USERPROFILE", home)):
        monkeypatch.setenv(name, value)
    load("~/data")
    output, errors = capfd.readouterr()
    assert "train-images-idx3-ubyte" in output and output.endswith("\r") and errors == ""
    assert names_in(root) == {*ARCHIVES}
    load(root)
    assert sorted(mirrors.requests) == sorted(ARCHIVES), "all are asked for once"


@pytest.mark.parametrize("behaviour", [*WRONG, "truncated", "stalled", "missing"])
def test_a_bad_mirror_is_reported_leaves_nothing_and_another_serves(mirrors, root, behaviour):
    mirrors.behaviour = {"first": behaviour, "second": behaviour}
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="no source has it") as caught:
        load(root)
    assert time.perf_counter() - started < 10
    assert all(url in str(caught.value) for url in fmnist.MIRRORS)
    assert names_in(root) == set()
    del mirrors.behaviour["second"]
    load(root)


def test_damaged_data_a_damaged_package_and_no_network(root, monkeypatch, tmp_path):
    package, url = put_archives(tmp_path / "installed", length=-30), "http://127.0.0.1:9/"
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", package)
    monkeypatch.setattr(fmnist, "MIRRORS", (url,))  # nobody listens there
    put_archives(root, length=10)
    with pytest.raises(FileNotFoundError) as caught:
        fmnist.load_fashion_mnist(root)
    ways = ("apt-get install dataset-fashion-mnist", "copy the four .gz files", "HTTPS_PROXY")
    for part in (*ways, *(f"\n  - {source}/train-images" for source in (root, package, url[:-1]))):
        assert part in str(caught.value)


@pytest.mark.parametrize("damaged", [b"", ARCHIVES[VICTIM][:-1], WRONG["wrong file"]])
def test_a_damaged_file_is_never_believed_and_it_alone_replaced(mirrors, root, damaged):
    load(put_archives(root))
    (root / VICTIM).write_bytes(damaged)
    load(root)
    assert mirrors.requests == [VICTIM]
    assert (root / VICTIM).read_bytes() == ARCHIVES[VICTIM]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_several_processes_may_load_at_once(mirrors, root):
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(4)
    processes = [fork.Process(target=lambda: (barrier.wait(), load(root))) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert names_in(root) == {*ARCHIVES}


def test_a_file_in_the_way_is_named(mirrors, root):
    root.write_text("not a folder")
    message = f"{root / 'new'} cannot be written ({root} is a file). DATA_DIR"
    with pytest.raises(OSError, match=re.escape(message)):
        load(root / "new")


@pytest.mark.parametrize(
    ("module", "name"),
    [(Path, "mkdir"), (tempfile, "TemporaryFile"), (Path, "write_bytes"), (Path, "replace")],
)
def test_a_full_disk_is_named_wherever_it_is_noticed(mirrors, root, monkeypatch, module, name):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(module, name, mock.Mock(side_effect=full))
    message = f"{root} cannot be written (No space left on device). DATA_DIR chooses another"
    with pytest.raises(OSError, match=re.escape(message)) as caught:
        load(root)
    assert caught.value.errno == errno.ENOSPC
    assert names_in(root) == set()


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_is_enough_when_it_has_the_data(mirrors):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # tmp_path may only be entered by its owner
        full = put_archives(Path(folder, "full"))
        for place in (full, Path(folder)):
            place.chmod(0o555)
        os.seteuid(user or 65_534)  # the superuser may write everywhere
        try:
            load(full)
            message = f"{folder} cannot be written (Permission denied). DATA_DIR"
            with pytest.raises(PermissionError, match=re.escape(message)):
                load(Path(folder))
        finally:
            os.seteuid(user)
