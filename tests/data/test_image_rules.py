import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_images import encoded, noise, tiff

from inspect_ai.data import images
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import BadImages

MAP = ImageRule(kind="wafer_map")
FLOAT = ImageRule(depth=32, minimum=0.0, maximum=1.0)


@pytest.fixture
def keep(tmp_path):
    def write(data, name="x.tif"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def test_16_bits_under_an_8_bit_spec_are_refused(keep):
    with pytest.raises(BadImages, match=r"x\.tif: pixels are uint16, the spec says depth = 8"):
        images.read(keep(tiff(noise(1, np.uint16))), ImageRule(depth=8))


def test_8_bits_under_a_16_bit_spec_are_refused(keep):
    with pytest.raises(BadImages, match=r"pixels are uint8, .* depth = 12 \(uint16\)\. Correct"):
        images.read(keep(tiff(noise())), ImageRule(depth=12))


def test_another_number_of_channels_is_refused(keep):
    with pytest.raises(BadImages, match=r"3 channel\(s\), the spec says 1\. Correct 'channels'"):
        images.read(keep(tiff(noise(3))), ImageRule(channels=1))


def test_another_size_is_refused_and_the_advice_works(keep):
    path = keep(tiff(noise()))
    with pytest.raises(BadImages, match=r"20 x 30 pixels, the spec says 30 x 20\. Drop 'height'"):
        images.read(path, ImageRule(height=30, width=20))
    images.read(path, ImageRule())


@pytest.mark.parametrize(
    ("depth", "value", "largest"), [(12, 4096, 4095), (10, 1024, 1023), (14, 65535, 16383)]
)
def test_a_pixel_beyond_the_depth_is_named(keep, depth, value, largest):
    pixels = np.zeros((4, 4), np.uint16)
    pixels[1, 2] = value
    with pytest.raises(BadImages, match=rf"x\.tif: a pixel of {value}, .* 0 to {largest}\."):
        images.read(keep(tiff(pixels)), ImageRule(depth=depth))


def test_a_pixel_beyond_the_declared_maximum_is_named(keep):
    with pytest.raises(BadImages, match=r"a pixel of 201, the spec allows 0 to 200"):
        images.read(keep(tiff(np.full((2, 2), 201, np.uint8))), ImageRule(maximum=200))


def test_a_black_level_is_no_lower_bound_of_whole_numbers(keep):
    images.read(keep(tiff(np.zeros((2, 2), np.uint8))), ImageRule(minimum=10))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_a_float_that_is_no_number_or_out_of_range_is_named(keep, value):
    pixels = np.full((5, 5), 0.5, np.float32)
    pixels[3, 3] = value
    with pytest.raises(BadImages, match=rf"x\.tif: a pixel of {value:g}, the spec allows 0 to 1"):
        images.read(keep(tiff(pixels)), FLOAT)


def test_a_wafer_map_stored_as_a_picture_reads(keep):
    wafer = np.array([[0, 1, 0], [1, 2, 1]], np.uint8)
    assert np.array_equal(images.read(keep(encoded(".png", wafer)), MAP)[0], wafer)


def test_a_wafer_map_with_no_die_is_refused(keep):
    with pytest.raises(BadImages, match=r"x\.tif: a wafer map with no die \(all 0\)\. Drop it"):
        images.read(keep(tiff(np.zeros((4, 4), np.uint8))), MAP)


def test_a_wafer_map_with_a_third_bin_is_refused(keep):
    with pytest.raises(BadImages, match=r"a pixel of 3, the spec allows 0 to 2"):
        images.read(keep(tiff(np.array([[1, 3]], np.uint8))), MAP)


@pytest.mark.parametrize("shape", [(1, 0, 4), (1, 4, 0), (4, 4), (1, 1, 4, 4)])
def test_an_array_that_is_no_image_is_refused(shape):
    with pytest.raises(BadImages, match="an array of shape"):
        images.checked(np.ones(shape, np.uint8), ImageRule(), "x")


def test_two_files_of_one_name_are_told_apart_by_their_folder(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "000.png").write_bytes(b"")
    with pytest.raises(BadImages, match=r"^good/000\.png: "):
        images.read(tmp_path / "good" / "000.png", ImageRule())


# content


def test_one_content_has_one_name_in_any_lossless_file(keep):
    pixels = noise()
    files = [encoded(".png", pixels), encoded(".bmp", pixels), tiff(pixels)]
    ids = {images.content_id(images.read(keep(data), ImageRule())) for data in files}
    assert len(ids) == 1
    assert len(ids.pop()) == 32


def test_type_and_shape_are_part_of_the_content():
    pixels = np.zeros((1, 2, 6), np.uint8)
    others = [pixels.reshape(1, 6, 2), pixels.reshape(2, 1, 6), pixels[..., :3].view(np.uint8)]
    others += [np.zeros((1, 2, 3), np.uint16), np.zeros((1, 1, 3), np.float32)]
    assert len({images.content_id(p) for p in [pixels, *others]}) == 6


def test_the_order_in_memory_is_no_part_of_the_content():
    pixels = noise(3).transpose(2, 0, 1)
    assert images.content_id(pixels) == images.content_id(np.ascontiguousarray(pixels))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays.arrays(np.uint8, (1, 3, 4)), st.integers(0, 11), st.integers(1, 255))
def test_any_other_pixel_gives_another_name(pixels, place, change):
    other = pixels.copy()
    other.flat[place] = (int(other.flat[place]) + change) % 256
    assert images.content_id(other) != images.content_id(pixels)


# padding


def test_maps_are_padded_with_off_wafer_in_one_corner():
    maps = [np.ones((1, 2, 3), np.uint8), np.full((1, 4, 1), 2, np.uint8)]
    batch = images.padded(maps, (3, 3))
    assert batch.shape == (2, 1, 4, 3)
    assert batch[0, 0, :2].all()
    assert not batch[0, 0, 2:].any()
    assert (batch[1, 0, :, 0] == 2).all()
    assert not batch[1, 0, :, 1:].any()


def test_a_large_canvas_makes_a_map_the_same_in_any_batch():
    small, large = np.ones((1, 2, 2), np.uint8), np.ones((1, 7, 5), np.uint8)
    alone, beside = (images.padded(maps, (8, 8)) for maps in ([small], [small, large]))
    assert np.array_equal(alone[0], beside[0])
