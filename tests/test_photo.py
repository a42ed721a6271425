"""Photos that readers take, and what the network is given."""

import re
import struct
import zlib

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS

Y, X = np.mgrid[-1:1:360j, -1:1:360j][..., np.newaxis]
DARK_CORNERS = 1 - 0.15 * (X**2 + Y**2)  # by 30 %
LAMP = 0.6 + 0.4 * np.exp(-((X - 0.4) ** 2) - (Y + 0.3) ** 2)
BLUE_PAPER = np.array([0.6, 0.75, 0.9])
TILES = np.kron(np.indices((12, 12)).sum(axis=0) % 2, np.ones((30, 30)))[..., np.newaxis]
DEEP = [(4095, "u2"), (4095, "i4"), (1, "f4")]  # white, and the type of values
BROKEN = {b"eXIf": bytes.fromhex("0008000201120003"), b"iCCP": b"icc\0\0broken"}


def example_photo(image, scale=10):
    """Turn an image into a kind of photo: large, dark on white."""
    enlarged = np.kron(image.astype(np.uint8), np.ones((scale, scale), np.uint8))
    return Image.fromarray(np.pad(255 - enlarged, 4 * scale, constant_values=255)).convert("RGB")


def lit(photo, light):
    return Image.fromarray((np.asarray(photo) * light).astype(np.uint8))


@pytest.fixture(params=[0, 1, 2])  # an ankle boot, a pullover and trousers
def photo(data, request):
    return example_photo(data.test.images[request.param])


@pytest.fixture
def differs(photo):
    """Return how much what becomes of another photo differs from what becomes of this one."""
    expected = fmnist.prepare_photo(photo)
    assert (expected.shape, expected.dtype) == ((28, 28), np.uint8)
    assert expected.max() > 200 and min(expected[0].max(), expected[:, 0].max()) == 0
    return lambda other: np.abs(fmnist.prepare_photo(other) - expected.astype(int)).mean()


def test_light_colour_creases_crumbs_and_shadows_make_no_difference(photo, differs):
    for light in (DARK_CORNERS, LAMP, BLUE_PAPER, 0.8 - 0.2 * X):  # the last comes from the left
        assert differs(lit(photo, light)) < 3
    pixels = np.array(photo)
    pixels[8:12, 40:160] = 150  # a crease
    pixels[340:352, 340:352] = 0  # a crumb
    assert differs(Image.fromarray(pixels)) < 4


def test_images_are_recognised_on_their_way_back_even_with_dark_corners(data):
    images, labels = (part[:200] for part in data.validation)
    photos = [example_photo(image, scale=5) for image in images]
    dark = [lit(photo, DARK_CORNERS[::2, ::2]) for photo in photos]
    session = onnxruntime.InferenceSession(FRAMEWORKS["pytorch"].models / "model.onnx")
    back = np.stack([fmnist.prepare_photo(photo) for photo in dark])
    (probabilities,) = session.run(None, {"image": back})
    assert (probabilities.argmax(axis=1) == labels).sum() >= 183


def test_a_garment_that_touches_the_border(photo, differs):
    left, top, right, bottom = Image.eval(photo.convert("L"), lambda grey: 255 - grey).getbbox()
    for box in ((0, top, 360, bottom), (left, 0, right, 360), (0, 0, right, bottom)):
        assert differs(photo.crop(box)) < 8, box


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", *DEEP])
def test_every_mode_gives_the_same_and_transparency_becomes_white(photo, differs, tmp_path, mode):
    if mode in DEEP:
        values = np.asarray(photo.convert("L")) * (mode[0] / 255)
        converted = Image.fromarray(values.astype(mode[1]))
    else:
        converted = photo.convert(mode)
    if mode == "RGBA":
        converted.paste((0, 0, 0, 0), mask=photo.convert("L").point(lambda grey: grey == 255, "1"))
    converted.save(tmp_path / "photo.tiff")
    assert differs(tmp_path / "photo.tiff") < 2


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_are_ignored(photo, differs, tmp_path, name, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    photo.save(tmp_path / "photo", "PNG")
    png, chunk = (tmp_path / "photo").read_bytes(), name + BROKEN[name]
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "photo").write_bytes(png[:33] + chunk + png[33:])  # behind the header
    assert differs("~/photo") < 2


def test_a_large_photo_with_noise_that_is_to_be_turned(photo, differs, tmp_path):
    pixels = np.asarray(photo.resize((3_000, 3_000)).rotate(90)) * 0.9
    noise = np.random.default_rng(0).normal(0, 8, (300, 300)).repeat(10, axis=0).repeat(10, axis=1)
    taken = Image.fromarray((pixels + noise[..., np.newaxis]).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    taken.save(tmp_path / "photo.jpg", exif=exif)
    assert differs(tmp_path / "photo.jpg") < 9


def test_files_that_are_refused(data, tmp_path, monkeypatch):
    path = tmp_path / "my.png"
    words = f"cannot read {path}; JPEG, PNG and WebP work; save a HEIC picture as one of them"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ValueError, match=re.escape(words)):
        fmnist.prepare_photo(path)
    example_photo(data.test.images[0]).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ValueError, match="exceeds limit"):
        fmnist.prepare_photo(path)


@pytest.mark.parametrize("light", [0, 0.4, 1 - 0.5 * TILES])
def test_backgrounds_that_are_refused(data, light):
    with pytest.raises(ValueError, match="lay the garment on a light, even one"):
        fmnist.prepare_photo(lit(example_photo(data.test.images[0]), light))
    with pytest.raises(ValueError, match="nothing but its background"):
        fmnist.prepare_photo(Image.new("RGB", (100, 80), "white"))
