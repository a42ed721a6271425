"""A reader's own photo, on its way to the network."""

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageFilter

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


def lit(photo, light):
    return Image.fromarray((np.asarray(photo) * light).astype(np.uint8))


@pytest.fixture(params=[0, 1, 2])  # an ankle boot, a pullover and trousers
def photo(data, request):
    return fmnist.example_photo(data.test.images[request.param])


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
        return (probabilities.argmax(axis=1) == data.validation.labels[:200]).sum()

    images = data.validation.images[:200]
    photos = [fmnist.example_photo(image) for image in images]
    dark = [lit(photo, LIGHTS["corners 30 % darker"]) for photo in photos]
    back, dark = ([fmnist.prepare_photo(photo) for photo in part] for part in (photos, dark))
    print(*map(recognised, (images, back, dark)), "of 200 are recognised: images, photos, dark")
    assert recognised(back) >= recognised(images) - 3
    assert recognised(dark) >= recognised(images) - 9


def test_a_garment_that_touches_the_border(photo, expected):
    left, top, right, bottom = Image.eval(photo.convert("L"), lambda grey: 255 - grey).getbbox()
    for box in ((0, top, 360, bottom), (left, 0, right, 360), (0, 0, right, bottom)):
        assert difference(fmnist.prepare_photo(photo.crop(box)), expected) < 8, box


def test_a_faint_shadow_is_not_taken_for_a_part_of_the_garment(photo, expected):
    grey = photo.convert("L")
    shadow = Image.eval(grey, lambda grey: 0 if grey < 215 else 255)
    shadow = np.roll(shadow.filter(ImageFilter.GaussianBlur(6)), 12, axis=(0, 1))
    light = np.where(np.asarray(grey) < 215, 1, 0.93 + 0.07 * shadow / 255)
    assert difference(fmnist.prepare_photo(lit(photo, light[..., np.newaxis])), expected) < 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "I;16"])
def test_every_mode_gives_the_same(photo, expected, mode):
    grey = np.asarray(photo.convert("L")).astype(np.uint16)
    converted = Image.fromarray(grey * 257) if mode == "I;16" else photo.convert(mode)
    assert converted.mode == mode
    assert difference(fmnist.prepare_photo(converted), expected) < 2


def test_transparency_becomes_white(photo, expected):
    pixels = np.array(photo.convert("RGBA"))
    pixels[(pixels[..., :3] == 255).all(axis=2)] = (0, 0, 0, 0)
    assert difference(fmnist.prepare_photo(Image.fromarray(pixels)), expected) == 0


def test_a_photo_of_a_telephone(photo, expected, tmp_path):
    pixels = np.asarray(photo.resize((3_000, 3_000)).rotate(90)) * 0.9
    pixels = np.pad(pixels, ((0, 0), (500, 500), (0, 0)), mode="edge")  # 12 megapixels
    noise = np.random.default_rng(0).normal(0, 8, (300, 400)).repeat(10, axis=0).repeat(10, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    taken = Image.fromarray((pixels + noise[..., np.newaxis]).clip(0, 255).astype(np.uint8))
    taken.save(tmp_path / "photo.jpg", exif=exif)
    before = (tmp_path / "photo.jpg").read_bytes()
    assert difference(fmnist.prepare_photo(tmp_path / "photo.jpg"), expected) < 9
    assert (tmp_path / "photo.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("none.jpg", FileNotFoundError, "none.jpg"),
        ("text.jpg", ValueError, "text.jpg is not a picture; JPEG, PNG and WebP work"),
        ("half.png", OSError, "truncated"),
        ("huge.png", ValueError, "huge.png is too large a picture"),
    ],
)
def test_files_that_are_refused(data, tmp_path, monkeypatch, name, error, message):
    fmnist.example_photo(data.test.images[0]).save(tmp_path / "huge.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "huge.png").read_bytes()[:-300])
    (tmp_path / "text.jpg").write_text("no picture")
    if name == "huge.png":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(error, match=message):
        fmnist.prepare_photo(tmp_path / name)


TILES = np.kron(np.indices((12, 12)).sum(axis=0) % 2, np.ones((30, 30)))[..., np.newaxis]


@pytest.mark.parametrize("background", [0, 0.4, 1 - 0.5 * TILES])
def test_backgrounds_that_are_refused(data, background):
    photo = fmnist.example_photo(data.test.images[0])
    with pytest.raises(ValueError, match="lay the garment on a light, even one"):
        fmnist.prepare_photo(lit(photo, background))
    with pytest.raises(ValueError, match="nothing but its background"):
        fmnist.prepare_photo(Image.new("RGB", (100, 80), "white"))
