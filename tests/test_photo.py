"""A reader's own photo, on its way to the network."""

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import fmnist_utils as fmnist
from benchmarks.notebook_code import REPOSITORY


@pytest.fixture
def photo(data):
    """Return something like a photo of an ankle boot, which is not symmetrical."""
    return fmnist.example_photo(data.test.images[0])


@pytest.fixture
def expected(photo):
    return fmnist.prepare_photo(photo)


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int)).mean()


def test_test_images_come_back_with_at_most_three_points_lost(data):
    session = onnxruntime.InferenceSession(REPOSITORY / "models/pytorch/model.onnx")

    def accuracy(images):
        (probabilities,) = session.run(None, {"image": (images / 255).astype("float32")})
        return (probabilities.argmax(axis=1) == data.test.labels[:1_000]).mean()

    images = data.test.images[:1_000]
    back = np.stack([fmnist.prepare_photo(fmnist.example_photo(image)) for image in images])
    print(f"accuracy {accuracy(images):.1%} on the images, {accuracy(back):.1%} on the way back")
    assert accuracy(back) >= accuracy(images) - 0.03


def test_the_result_is_as_fashion_mnist_has_it(expected):
    assert (expected.shape, expected.dtype) == ((28, 28), np.uint8)
    assert expected[0].max() == 0, "the background is black"
    assert expected.max() > 200


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "CMYK", "I;16"])
def test_every_mode_gives_the_same(photo, expected, mode):
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
        assert converted.mode == mode
    else:
        converted = photo.convert(mode)
    assert difference(fmnist.prepare_photo(converted), expected) < 2


def test_transparency_becomes_white(photo, expected):
    transparent = photo.convert("RGBA")
    pixels = np.array(transparent)
    pixels[(pixels[..., :3] == 255).all(axis=2)] = (0, 0, 0, 0)
    assert difference(fmnist.prepare_photo(Image.fromarray(pixels)), expected) == 0


def test_the_orientation_of_the_camera_is_heeded(photo, expected, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to see it upright
    photo.rotate(90, expand=True).save(tmp_path / "photo.png", exif=exif)
    assert difference(fmnist.prepare_photo(tmp_path / "photo.png"), expected) == 0


def test_a_grey_background_becomes_black(photo, expected):
    grey = Image.fromarray((np.asarray(photo) * 0.8).astype(np.uint8))
    assert difference(fmnist.prepare_photo(grey), expected) < 3


def test_a_large_photo(photo, expected):
    large = photo.resize((7_200, 7_200), Image.Resampling.NEAREST)  # 52 megapixels
    assert difference(fmnist.prepare_photo(large), expected) < 6


def test_the_file_is_not_changed(photo, tmp_path):
    path = tmp_path / "photo.jpg"
    photo.save(path, quality=95)
    before = path.read_bytes()
    fmnist.prepare_photo(path)
    assert path.read_bytes() == before


def test_what_is_refused(photo, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"There is no photo .*none.jpg"):
        fmnist.prepare_photo(tmp_path / "none.jpg")

    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"text.jpg is not a picture; JPEG, PNG and WebP work"):
        fmnist.prepare_photo(tmp_path / "text.jpg")

    photo.save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"half.png is damaged"):
        fmnist.prepare_photo(tmp_path / "half.png")

    with pytest.raises(ValueError, match="nothing but its background"):
        fmnist.prepare_photo(Image.new("RGB", (100, 80), "white"))

    with pytest.raises(ValueError, match="lay the garment on a light one"):
        fmnist.prepare_photo(Image.new("RGB", (100, 80), "black"))

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ValueError, match=r"whole.png is too large a picture"):
        fmnist.prepare_photo(tmp_path / "whole.png")


def test_the_plot_names_the_three_likeliest_classes(photo, expected):
    probabilities = np.full(10, 0.01)
    probabilities[[9, 7, 5]] = (0.6, 0.2, 0.13)
    left, middle, right = fmnist.plot_photo(photo, expected, probabilities).axes
    assert np.array_equal(left.images[0].get_array(), np.asarray(photo))
    assert np.array_equal(middle.images[0].get_array(), expected)
    assert [label.get_text() for label in right.get_yticklabels()] == [
        "Ankle boot",
        "Sneaker",
        "Sandal",
    ]
    assert [bar.get_width() for bar in right.patches] == [0.6, 0.2, 0.13]
