import os

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_images import (
    animated,
    bmp,
    encoded,
    exif,
    gamma,
    noise,
    packed,
    pillow,
    png,
    png_of,
    tiff,
)

from inspect_ai.data import images
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import BadImages

U8, U16, F32 = np.uint8, np.uint16, np.float32
DEPTHS = {np.dtype(U8): 8, np.dtype(U16): 16, np.dtype(F32): 32}


def rule_for(pixels, **fields):
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    given = {"channels": channels, "depth": DEPTHS[pixels.dtype]}
    if pixels.dtype == F32:
        given |= {"minimum": 0.0, "maximum": 1.0}
    return ImageRule(**(given | fields))


def planes(pixels):
    """(C, H, W) in the order of OpenCV: blue, green, red."""
    if pixels.ndim == 2:
        return pixels[None]
    order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    return pixels[..., order].transpose(2, 0, 1)


@pytest.fixture
def keep(tmp_path):
    def write(data, name="some.img"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


# read bit for bit

GREY, GREY16, COLOUR, COLOUR16 = noise(), noise(1, U16), noise(3), noise(3, U16)
ALPHA, FLOAT, FLOATS = noise(4), noise(1, F32), noise(3, F32)
LOSSLESS = {
    "PNG grey": (png_of(GREY, 0), GREY),
    "PNG grey 16": (png_of(GREY16, 0), GREY16),
    "PNG colour": (png_of(COLOUR, 2), COLOUR),
    "PNG colour 16": (png_of(COLOUR16, 2), COLOUR16),
    "PNG colour with alpha": (png_of(ALPHA, 6), ALPHA),
    "PNG with gamma": (png_of(GREY, 0, gamma()), GREY),
    "PNG with orientation": (pillow(COLOUR, "PNG", exif=exif(6)), COLOUR),
    "PNG as OpenCV writes it": (encoded(".png", GREY16), GREY16),
    "BMP grey": (pillow(GREY, "BMP"), GREY),
    "BMP colour": (pillow(COLOUR, "BMP"), COLOUR),
    "BMP as OpenCV writes it": (encoded(".bmp", GREY), GREY),
    "TIFF grey": (tiff(GREY), GREY),
    "TIFF grey 16": (tiff(GREY16), GREY16),
    "TIFF colour": (tiff(COLOUR), COLOUR),
    "TIFF colour 16": (tiff(COLOUR16), COLOUR16),
    "TIFF float": (tiff(FLOAT), FLOAT),
    "TIFF float colour": (tiff(FLOATS), FLOATS),
    "TIFF big-endian": (tiff(GREY16, order=">"), GREY16),
    "TIFF big-endian float": (tiff(FLOAT, order=">"), FLOAT),
    "TIFF deflate": (tiff(GREY16, packing=8), GREY16),
    "TIFF LZW": (pillow(GREY, "TIFF", compression="tiff_lzw"), GREY),
    "TIFF LZW 16": (pillow(GREY16, "TIFF", compression="tiff_lzw"), GREY16),
    "TIFF pack bits": (pillow(GREY, "TIFF", compression="packbits"), GREY),
    "BigTIFF": (tiff(GREY16, big=True), GREY16),
    "BigTIFF big-endian": (tiff(GREY16, big=True, order=">"), GREY16),
    "TIFF as OpenCV writes it": (encoded(".tif", COLOUR16[..., ::-1]), COLOUR16),
    "TIFF float as OpenCV writes it": (encoded(".tif", FLOAT), FLOAT),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_gives_back_the_pixels_bit_for_bit(keep, kind):
    data, pixels = LOSSLESS[kind]
    read = images.read(keep(data), rule_for(pixels))
    assert read.dtype == pixels.dtype
    assert np.array_equal(read, planes(pixels))
    assert read.flags.c_contiguous


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_ten_to_fourteen_bits_stay_as_they_are_in_16(keep, depth):
    pixels = GREY16 >> (16 - depth)
    assert np.array_equal(images.read(keep(png_of(pixels, 0)), ImageRule(depth=depth))[0], pixels)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("dtype", [U8, U16, F32])
@pytest.mark.parametrize("channels", [2, 3, 5, 9])
def test_each_page_of_a_tiff_is_a_channel(keep, channels, dtype, big):
    pages = [np.roll(noise(1, dtype), i) for i in range(channels)]
    rule = rule_for(pages[0], channels=channels)
    assert np.array_equal(images.read(keep(tiff(*pages, big=big)), rule), np.stack(pages))


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_a_jpeg_is_not_turned_by_its_orientation(keep, turn):
    upright = images.read(keep(pillow(COLOUR, "JPEG")), rule_for(COLOUR))
    turned = images.read(keep(pillow(COLOUR, "JPEG", exif=exif(turn))), rule_for(COLOUR))
    assert np.array_equal(upright, turned)


def test_a_grey_jpeg_has_one_channel_and_a_progressive_one_reads(keep):
    grey = images.read(keep(pillow(GREY, "JPEG", quality=100)), rule_for(GREY))
    assert np.abs(grey[0].astype(int) - GREY).max() < 8
    images.read(keep(pillow(COLOUR, "JPEG", progressive=True)), rule_for(COLOUR))


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17)])
def test_grey_of_few_bits_is_spread_over_8_one_to_one(keep, bits, step):
    values = noise() % 2**bits
    values = np.pad(values, ((0, 0), (0, 2)))  # whole bytes
    read = images.read(keep(png(packed(values, bits), 32, bits, 0)), ImageRule())
    assert np.array_equal(read[0], values * step)


def test_a_palette_gives_the_colours_it_names(keep):
    few = (COLOUR // 128) * 255
    assert np.array_equal(images.read(keep(pillow(few, "PNG", "P")), rule_for(few)), planes(few))
    with pytest.raises(BadImages, match=r"3 channel\(s\), the spec says 1"):
        images.read(keep(pillow(few, "PNG", "P")), ImageRule())


@pytest.mark.parametrize("name", ["Wafer-Prüfung 晶圆 №7.png", "w" * 230 + ".png", "a b#c%d.png"])
def test_reads_any_file_name(keep, name):
    assert np.array_equal(images.read(keep(png_of(GREY, 0), name), rule_for(GREY))[0], GREY)


def test_the_content_counts_and_not_the_suffix(keep):
    assert np.array_equal(images.read(keep(tiff(GREY), "x.png"), rule_for(GREY))[0], GREY)


# refused: OpenCV would change them

VALUES12 = noise(1, U16)[:, :24] >> 4
ODD = {
    "PNG grey with alpha": (png_of(noise(2), 4), "grey with alpha"),
    "PNG 16-bit grey with alpha": (png_of(noise(2, U16), 4), "grey with alpha"),
    "PNG animated": (animated(GREY, 255 - GREY), "animated PNG"),
    "JPEG CMYK": (pillow(ALPHA, "JPEG", "CMYK"), "CMYK"),
    "BMP 16": (bmp(GREY16.tobytes(), 16, *GREY16.shape), "BMP of 16 bits"),
    "TIFF two samples of 16 bits": (tiff(noise(2, U16), photo=1), "2 samples of 16 bits"),
    "TIFF five samples": (tiff(noise(5, U16), photo=1), "5 samples of 16 bits"),
    "TIFF three grey samples": (tiff(noise(3), photo=1), "3 samples of 8 bits"),
    "TIFF two float samples": (tiff(noise(2, F32), photo=1), "2 samples of 32 bits"),
    "TIFF planes stored apart": (tiff(noise(3, U16), planes=2), "planes stored apart"),
    "TIFF 8-bit alpha": (tiff(ALPHA, alpha=2), "an alpha channel beside 8-bit"),
    "TIFF turned": (tiff(GREY16, turn=6), "an orientation tag"),
    "TIFF mirrored": (tiff(GREY16, turn=3), "an orientation tag"),
    "TIFF white is zero": (tiff(GREY, photo=0), "a colour scheme of its own"),
    "TIFF CMYK": (pillow(ALPHA, "TIFF", "CMYK"), "a colour scheme of its own"),
    "TIFF LAB": (pillow(COLOUR, "TIFF", "LAB"), "a colour scheme of its own"),
    "TIFF palette": (pillow(COLOUR, "TIFF", "P"), "a colour scheme of its own"),
    "TIFF 1 bit": (pillow(GREY > 127, "TIFF"), "samples of 1 bits"),
    "TIFF 12 bit": (tiff(VALUES12, bits=12), "samples of 12 bits"),
    "TIFF float 64": (tiff(noise(1, np.float64)), "samples of 64 bits"),
    "TIFF signed": (tiff(noise(1, np.int16)), r"samples of 16 bits \(format 2\)"),
    "TIFF 32-bit whole": (tiff(noise(1, np.uint32)), r"samples of 32 bits \(format 1\)"),
    "TIFF pages of other sizes": (tiff(GREY, GREY[:-1]), "pages differ in size or type"),
    "TIFF pages of other types": (tiff(GREY, GREY16), "pages differ in size or type"),
    "WebP": (pillow(COLOUR, "WEBP", lossless=True), "not a whole PNG, JPEG, BMP or TIFF"),
    "GIF": (pillow(GREY, "GIF"), "not a whole PNG, JPEG, BMP or TIFF"),
    "PPM": (pillow(COLOUR, "PPM"), "not a whole PNG, JPEG, BMP or TIFF"),
}


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ODD)
def test_refuses_what_would_be_converted_whatever_the_rule_says(keep, kind, channels):
    data, words = ODD[kind]
    for depth in (8, 16):
        with pytest.raises(BadImages, match=rf"some\.img: .*{words}"):
            images.read(keep(data), ImageRule(depth=depth, channels=channels))


# refused: damaged

BIG = np.tile(noise(1, U16), (8, 8))
WHOLE = {
    "PNG": encoded(".png", BIG),
    "JPEG": encoded(".jpg", (BIG >> 8).astype(U8)),
    "progressive JPEG": pillow((BIG >> 8).astype(U8), "JPEG", progressive=True, exif=exif(1)),
    "BMP": encoded(".bmp", (BIG >> 8).astype(U8)),
    "TIFF": tiff(BIG),
    "deflated TIFF": tiff(BIG, packing=8),
    "TIFF with its tags last": encoded(".tif", BIG),
    "TIFF of pages": tiff(BIG, BIG, BIG),
    "BigTIFF of pages": tiff(BIG, BIG, BIG, big=True),
}


@pytest.mark.parametrize("share", [0.001, 0.05, 0.34, 0.5, 0.67, 0.9, 0.99])
@pytest.mark.parametrize("kind", WHOLE)
def test_refuses_a_file_cut_off_anywhere(keep, kind, share):
    data = WHOLE[kind]
    for channels in (1, 2, 3):
        rule = ImageRule(depth=8 if kind in ("BMP", "JPEG") else 16, channels=channels)
        with pytest.raises(BadImages, match=r"some\.img: (not a whole|a damaged).*[Cc]opy"):
            images.read(keep(data[: max(int(len(data) * share), 1)]), rule)


@pytest.mark.parametrize("name", ["text.png", "text.tif", "text.jpg"])
@pytest.mark.parametrize("data", [b"not an image\n", b"II*\0", b"\xff\xd8\xff", b"BM", b"\x89PNG"])
def test_refuses_text_and_mere_beginnings(keep, name, data):
    with pytest.raises(BadImages, match=rf"{name}: (not a whole|a damaged)"):
        images.read(keep(data, name), ImageRule())


def test_refuses_an_empty_file(keep):
    with pytest.raises(BadImages, match=r"x\.png: 0 bytes\. Copy the file again or drop it"):
        images.read(keep(b"", "x.png"), ImageRule())


def test_refuses_a_folder_and_a_missing_file(tmp_path):
    (tmp_path / "x.png").mkdir()
    for name, words in (("x.png", "directory"), ("y.png", "No such file")):
        with pytest.raises(BadImages, match=rf"{name}: .*{words}"):
            images.read(tmp_path / name, ImageRule())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads any file")
def test_refuses_a_file_that_may_not_be_read(keep):
    path = keep(png_of(GREY, 0), "x.png")
    path.chmod(0)
    with pytest.raises(BadImages, match=r"x\.png: Permission denied"):
        images.read(path, ImageRule())


def test_refuses_more_pixels_than_opencv_reads(keep):
    bomb = png([b""] * 100_000, 100_000, 8, 0)
    with pytest.raises(BadImages, match="not a whole PNG"):
        images.read(keep(bomb), ImageRule())


def test_a_tiff_whose_pages_run_in_a_circle_is_refused(keep):
    data = bytearray(tiff(GREY))
    tags = int.from_bytes(data[8:10], "little")
    data[10 + 12 * tags : 14 + 12 * tags] = (8).to_bytes(4, "little")
    with pytest.raises(BadImages, match="its pages run in a circle"):
        images.read(keep(bytes(data)), ImageRule())


SEEDS = [tiff(GREY16), tiff(GREY, GREY, big=True), png_of(GREY, 0), encoded(".jpg", GREY)]
SEEDS += [encoded(".bmp", GREY), encoded(".tif", COLOUR16)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
)
@example(SEEDS[0], [], 1.0)
def test_a_spoilt_file_is_read_or_refused_and_nothing_else(data, flips, share):
    spoilt = bytearray(data)
    for place, value in flips:
        spoilt[int(place**4 * len(data))] = value  # mostly in the head
    try:
        pixels = images._decoded(bytes(spoilt[: int(share * len(data))]), "x")
    except BadImages:
        return
    assert pixels.ndim == 3
    assert pixels.dtype in DEPTHS
