"""Fetching, loading and splitting the data, and everything that can go wrong in them."""

import gzip
import hashlib
import http.server
import os
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
WRONG_ARCHIVES = {
    "wrong file": gzip.compress(b"somebody else's data"),
    "not a gzip file": b"<html>Please log in to this network</html>",
}


@pytest.fixture
def root(monkeypatch, tmp_path):
    """Stand in small files for the data set, and no source that has them."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in SMALL_FILES.items()}
    monkeypatch.setattr(fmnist, "DATA_SHA256", hashes)
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", Path("/not-installed/fashion-mnist"))
    monkeypatch.setattr(fmnist, "MIRRORS", ())
    return tmp_path / "data"


@pytest.fixture
def raw(root):
    return root / "FashionMNIST" / "raw"


def put_archives(folder, shown=None):
    folder.mkdir(parents=True)
    for name, content in SMALL_FILES.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content)[:shown])
    return folder


def assert_complete(raw):
    assert {name: (raw / name).read_bytes() for name in SMALL_FILES} == SMALL_FILES
    assert not list(raw.glob(".*.partial")), "half-written files are left"


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the small files on loopback, as told in the server's `behaviour`."""

    def do_GET(self):
        behaviour, name = self.server.behaviour, self.path.rsplit("/", 1)[-1].removesuffix(".gz")
        self.server.requests.append(name)
        content = WRONG_ARCHIVES.get(behaviour, gzip.compress(SMALL_FILES[name]))
        self.send_response(404 if behaviour == "missing" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: 10 if behaviour in ("truncated", "stalled") else None])
        if behaviour == "stalled":
            self.server.released.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def mirrors(root, monkeypatch):
    """Start two mirrors, of which the first is asked first."""
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) for _ in range(2)]
    for server in servers:
        server.behaviour, server.requests, server.released = "good", [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    monkeypatch.setattr(fmnist, "MIRRORS", [server.url for server in servers])
    monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 1))
    yield servers
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


def test_sizes_types_ranges_and_split(data, repository):
    assert [len(part.images) for part in data] == [55_000, 5_000, 10_000]
    for part in data:
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert part.images.shape == (len(part.labels), 28, 28)
        assert (part.images.min(), part.images.max()) == (0, 255)
        assert len(set(np.bincount(part.labels))) == 1, "all classes are equally frequent"
    same_in_every_run = "709442e429c3253b71eb184fdde965a0a52ff45feee61f28331ae197a0ff5688"
    assert hashlib.sha256(data.validation.images.tobytes()).hexdigest() == same_in_every_run
    raw = repository / "data/FashionMNIST/raw/train-images-idx3-ubyte"
    everything = np.fromfile(raw, np.uint8, offset=16).reshape(-1, 784)
    parts = np.concatenate([data.train.images, data.validation.images]).reshape(-1, 784)
    assert sorted(map(bytes, parts)) == sorted(map(bytes, everything))


# The processor's time, of up to five tries, since others may use the machine at the same time.


def test_a_warm_load_takes_under_half_a_second(repository, data):
    def seconds():
        started = time.process_time()
        few = fmnist.load_fashion_mnist(repository / "data", validation_size=10)
        took = time.process_time() - started
        assert (len(few.train.labels), sorted(few.validation.labels)) == (59_990, [*range(10)])
        return took

    assert any(seconds() < 0.5 for _ in range(5))


def test_the_import_is_quick_and_brings_no_framework(repository):
    code = (
        "import sys, time; started = time.process_time(); import fmnist_utils; "
        "print(time.process_time() - started, {'torch', 'tensorflow', 'keras'} & {*sys.modules})"
    )

    def seconds():
        done = subprocess.run([sys.executable, "-c", code], cwd=repository, stdout=-1, check=True)
        took, frameworks = done.stdout.decode().split(maxsplit=1)
        assert frameworks.strip() == "set()"
        return float(took)

    assert any(seconds() < 1.5 for _ in range(5))  # the first may have to compile


@pytest.mark.parametrize("place", ["installed", "data/not-installed", "data/FashionMNIST/raw"])
def test_from_debians_package_or_archives_copied_by_hand(mirrors, root, monkeypatch, place):
    folder = put_archives(root.parent / place / ("" if "raw" in place else "fashion-mnist"))
    if place == "installed":
        monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", folder)
    assert_complete(fmnist.fetch_fashion_mnist(root))
    assert mirrors[0].requests == []


def test_from_a_mirror_behind_a_proxy_with_a_progress_bar(mirrors, root, monkeypatch, capsys):
    monkeypatch.setattr(fmnist, "MIRRORS", ("http://mirror.invalid/",))
    monkeypatch.setenv("http_proxy", mirrors[0].url)
    assert_complete(fmnist.fetch_fashion_mnist(root))
    captured = capsys.readouterr()
    assert "train-images-idx3-ubyte" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize("behaviour", [*WRONG_ARCHIVES, "truncated", "stalled", "missing"])
def test_a_bad_mirror_is_reported_leaves_nothing_and_another_serves(mirrors, root, raw, behaviour):
    bad, good = mirrors
    bad.behaviour = good.behaviour = behaviour
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="no source has it") as caught:
        fmnist.fetch_fashion_mnist(root)
    assert time.perf_counter() - started < 10
    assert bad.url in str(caught.value) and good.url in str(caught.value)
    assert [path.name for path in raw.iterdir() if path.name != ".lock"] == []
    good.behaviour = "good"
    assert_complete(fmnist.fetch_fashion_mnist(root))
    assert len(bad.requests) == 2, "it is given up after the first file"


def test_damaged_data_a_damaged_package_and_no_network(root, raw, monkeypatch, tmp_path):
    package = put_archives(tmp_path / "installed", shown=-30)
    monkeypatch.setattr(fmnist, "DEBIAN_FOLDER", package)
    monkeypatch.setattr(fmnist, "MIRRORS", ("http://127.0.0.1:9/",))  # nobody listens there
    raw.mkdir(parents=True)
    (raw / VICTIM).write_bytes(b"broken")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(FileNotFoundError) as caught:
        fmnist.fetch_fashion_mnist(root)
    ways = ("apt-get install dataset-fashion-mnist", "copy the four files", "mirrors are")
    tried = (f"\n  - {package}: ", "\n  - http://127.0.0.1:9/: ")
    for part in (*ways, "HTTPS_PROXY", "REQUESTS_CA_BUNDLE", str(raw), *tried):
        assert part in str(caught.value)
    assert (raw / f"{VICTIM}.damaged-1").read_bytes() == b"broken"


@pytest.mark.parametrize("damaged", [b"", SMALL_FILES[VICTIM][:-1], b"X" + SMALL_FILES[VICTIM][1:]])
def test_a_damaged_file_is_set_aside_and_it_alone_replaced(mirrors, root, raw, damaged):
    fmnist.fetch_fashion_mnist(root)
    mirrors[0].requests.clear()
    for number in (1, 2):  # the second must not overwrite the first
        (raw / VICTIM).write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"damaged.*renamed to {VICTIM}.damaged-{number}"):
            fmnist.fetch_fashion_mnist(root)
        assert_complete(raw)
        assert (raw / f"{VICTIM}.damaged-{number}").read_bytes() == damaged
    assert mirrors[0].requests == [VICTIM] * 2


def test_a_killed_download_leaves_no_half_file_and_is_made_up_for(
    mirrors, root, raw, monkeypatch, fork
):
    mirrors[0].behaviour = "stalled"
    monkeypatch.setattr(fmnist, "CONNECT_AND_READ_TIMEOUT", (1, 30))
    process = fork.Process(target=fmnist.fetch_fashion_mnist, args=(root,))
    process.start()
    deadline = time.monotonic() + 10
    while not mirrors[0].requests and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert mirrors[0].requests, "the download had not begun"
    assert not [name for name in SMALL_FILES if (raw / name).exists()]
    mirrors[0].behaviour = "good"
    assert_complete(fmnist.fetch_fashion_mnist(root))


def test_notebooks_that_start_at_once_fetch_every_file_once(mirrors, root, fork):
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
    assert sorted(mirrors[0].requests) == sorted(SMALL_FILES)


@pytest.mark.parametrize("part", ["data", "data/FashionMNIST", "data/FashionMNIST/raw"])
def test_a_file_in_the_way_is_named(root, part):
    file = root.parent / part
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("not a folder")
    with pytest.raises(OSError, match=f" {file} is a file. .*FMNIST_DATA.*DATA_DIR"):
        fmnist.fetch_fashion_mnist(root)
    assert file.read_text() == "not a folder"


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_is_enough_when_it_has_the_data(mirrors):
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as root:  # tmp_path may only be entered by its owner
        full, empty = (Path(root, name, "FashionMNIST", "raw") for name in ("full", "empty"))
        for folder in (full, empty):
            folder.mkdir(parents=True)
        for name, content in SMALL_FILES.items():
            (full / name).write_bytes(content)
        for folder in (full, empty, Path(root)):
            folder.chmod(0o555)
        os.seteuid(user or 65_534)  # the superuser may write everywhere
        try:
            assert fmnist.fetch_fashion_mnist(full.parents[1]) == full
            with pytest.raises(PermissionError, match=r"cannot be written .*FMNIST_DATA.*DATA_DIR"):
                fmnist.fetch_fashion_mnist(empty.parents[1])
        finally:
            os.seteuid(user)
    assert mirrors[0].requests == []
