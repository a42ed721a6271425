"""A reader's own photo, on its way to the network."""

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import fmnist_utils as fmnist
from benchmarks.notebook import FRAMEWORKS

Y, X = np.mgrid[-1:1:360j, -1:1:360j][..., np.newaxis]
LIGHTS = {
    "corners 30 % darker": 1 - 0.15 * (X**2 + Y**2),
    "corners alone 30 % darker": 1 - 0.075 * (X**2 + Y**2) ** 2,
    "from the left": 0.8 - 0.2 * X,
    "a lamp": 0.6 + 0.4 * np.exp(-((X - 0.4) ** 2) - (Y + 0.3) ** 2),
    "grey paper": 0.8,
    "blue paper": np.array([0.6, 0.75, 0.9]),
}


def example_photo(image):
    """Turn an image into a kind of photo: large, dark on white."""
    enlarged = np.kron(image.astype(np.uint8), np.ones((10, 10), np.uint8))
    return Image.fromarray(np.pad(255 - enlarged, 40, constant_values=255)).convert("RGB")


def lit(photo, light):
    return Image.fromarray((np.asarray(photo) * light).astype(np.uint8))


@pytest.fixture(params=[0, 1, 2])  # an ankle boot, a pullover and trousers
def photo(data, request):
    return example_photo(data.test.images[request.param])


@pytest.fixture
def expected(photo):
    return fmnist.prepare_photo(photo)


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int)).mean()


def test_the_result_is_as_fashion_mnist_has_it(expected):
    assert (expected.shape, expected.dtype) == ((28, 28), np.uint8)
    assert max(expected[0].max(), expected[-1].max()) == 0 or expected[:, [0, -1]].max() == 0
    assert expected.max() > 200


@pytest.mark.parametrize("light", LIGHTS)
def test_light_and_colour_of_the_background_make_no_difference(photo, expected, light):
    assert difference(fmnist.prepare_photo(lit(photo, LIGHTS[light])), expected) < 3


def test_images_are_recognised_on_their_way_back_even_with_dark_corners(data):
    session = onnxruntime.InferenceSession(FRAMEWORKS["pytorch"].models / "model.onnx")

    def recognised(images):
        (probabilities,) = session.run(None, {"image": np.float32(images) / np.float32(255)})
        return (probabilities.argmax(axis=1) == data.validation.labels[:60]).sum()

    images = data.validation.images[:60]
    photos = [example_photo(image) for image in images]
    dark = [lit(photo, LIGHTS["corners 30 % darker"]) for photo in photos]
    back, dark = ([fmnist.prepare_photo(photo) for photo in part] for part in (photos, dark))
    assert recognised(back) >= recognised(images) - 1
    assert recognised(dark) >= recognised(images) - 3


def test_a_garment_that_touches_the_border(photo, expected):
    left, top, right, bottom = Image.eval(photo.convert("L"), lambda grey: 255 - grey).getbbox()
    for box in ((0, top, 360, bottom), (left, 0, right, 360), (0, 0, right, bottom)):
        assert difference(fmnist.prepare_photo(photo.crop(box)), expected) < 8, box


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "I;16"])
def test_every_mode_gives_the_same_and_transparency_becomes_white(photo, expected, mode):
    grey = np.asarray(photo.convert("L")).astype(np.uint16)
    converted = Image.fromarray(grey * 257) if mode == "I;16" else photo.convert(mode)
    assert converted.mode == mode
    if mode == "RGBA":
        converted.paste((0, 0, 0, 0), mask=Image.fromarray(grey == 255))
    assert difference(fmnist.prepare_photo(converted), expected) < 2


def test_a_photo_of_a_telephone(photo, expected, tmp_path):
    pixels = np.asarray(photo.resize((3_000, 3_000)).rotate(90)) * 0.9
    pixels = np.pad(pixels, ((0, 0), (500, 500), (0, 0)), mode="edge")  # 12 megapixels
    noise = np.random.default_rng(0).normal(0, 8, (300, 400)).repeat(10, axis=0).repeat(10, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    taken = Image.fromarray((pixels + noise[..., np.newaxis]).clip(0, 255).astype(np.uint8))
    taken.save(tmp_path / "photo.jpg", exif=exif)
    assert difference(fmnist.prepare_photo(tmp_path / "photo.jpg"), expected) < 9


def test_files_that_are_refused(data, tmp_path, monkeypatch):
    path = tmp_path / "my.png"
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"my.png is not a picture; JPEG, PNG and WebP work"):
        fmnist.prepare_photo(path)
    example_photo(data.test.images[0]).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(OSError, match="truncated"):
        fmnist.prepare_photo(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ValueError, match=r"my.png is too large a picture"):
        fmnist.prepare_photo(path)


TILES = np.kron(np.indices((12, 12)).sum(axis=0) % 2, np.ones((30, 30)))[..., np.newaxis]


@pytest.mark.parametrize("background", [0, 0.4, 1 - 0.5 * TILES])
def test_backgrounds_that_are_refused(data, background):
    with pytest.raises(ValueError, match="lay the garment on a light, even one"):
        fmnist.prepare_photo(lit(example_photo(data.test.images[0]), background))
    with pytest.raises(ValueError, match="nothing but its background"):
        fmnist.prepare_photo(Image.new("RGB", (100, 80), "white"))
