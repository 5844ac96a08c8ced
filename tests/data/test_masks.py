import numpy as np
import pytest
from made_images import encoded, exif, pillow, tiff

from inspect_ai.data import layouts
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadImages


def spec_of(root):
    fields = {"name": "made", "root": root, "source": "a test", "licence": "none"}
    return DataSpec.checked(fields | {"layout": {"kind": "files"}}, "a test")


def mask(root, name, data):
    (root / name).write_bytes(data)
    return layouts.read_mask(spec_of(root), root, name)


HALF = np.zeros((4, 6), bool)
HALF[:2] = True


@pytest.mark.parametrize("white", [1, 3, 76, 128, 255])
def test_a_mask_may_have_any_value_on_the_defect(tmp_path, white):
    assert np.array_equal(mask(tmp_path, "m.png", encoded(".png", HALF * np.uint8(white))), HALF)


def test_the_grey_edges_of_a_white_mask_count_from_half(tmp_path):
    ramp = np.array([[0, 60, 127, 128, 255]], np.uint8)
    assert mask(tmp_path, "m.png", encoded(".png", ramp)).tolist() == [[0, 0, 0, 1, 1]]


def test_masks_of_colour_of_one_bit_and_of_tiff_are_read(tmp_path):
    red = np.zeros((4, 6, 3), np.uint8)
    red[:2, :, 0] = 255
    for name, data in (
        ("m.png", pillow(red, "PNG", "P")),
        ("n.png", pillow(HALF, "PNG")),
        ("m.tif", tiff(HALF.astype(np.uint8))),
    ):
        assert np.array_equal(mask(tmp_path, name, data), HALF)


def test_an_empty_mask_is_empty(tmp_path):
    assert not mask(tmp_path, "m.png", encoded(".png", np.zeros((4, 6), np.uint8))).any()


def test_a_mask_is_not_turned_by_its_orientation(tmp_path):
    data = pillow(HALF.astype(np.uint8) * 255, "JPEG", exif=exif(6))
    assert mask(tmp_path, "m.jpg", data).shape == HALF.shape


@pytest.mark.parametrize("data", [b"", b"text"])
def test_a_mask_that_cannot_be_read_is_named(tmp_path, data):
    with pytest.raises(BadImages, match=r"m\.png: not a readable mask"):
        mask(tmp_path, "m.png", data)


def test_a_mask_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadImages, match=r"m\.png: not a readable mask"):
        layouts.read_mask(spec_of(tmp_path), tmp_path, "m.png")
