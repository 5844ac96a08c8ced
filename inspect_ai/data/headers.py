"""What a file's first bytes say, so that no pixel of it is changed in silence.

Found by trying, with OpenCV 4.10 and 5.0:

* PNG of 8 or 16 bits, grey, colour or colour with alpha, comes back bit for bit; gamma and
  orientation are left alone. Grey of 1, 2 or 4 bits is spread over 0 to 255 (1 bit: 0 and
  255), one to one. A palette comes back as the colours it names, 3 or 4 channels. Grey with
  alpha would come back as 4 channels, and of an animation only the first frame: refused.
* JPEG is not turned by its EXIF orientation. CMYK would come back as colours: refused. One
  cut off would come back grey below the cut: refused.
* BMP of 1 to 8 bits comes back as the colours of its palette, grey where they are; a fourth
  byte of a pixel is dropped. 16 bits hold 5 or 6 bits a colour and would be stretched: refused.
* TIFF: see tiff.py.
* Other formats are refused, whatever OpenCV could read.
"""

from inspect_ai.data import tiff

PNG, JPEG, BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
GREY_ALPHA, CMYK = 4, 4  # PNG's colour type; JPEG's number of components
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers that tell the size


def fault(data: bytes) -> str | None:
    """Why the bytes of a file are refused before they are decoded: given and do, or None."""
    if not data:
        return "0 bytes. Copy the file again or drop it."
    if data.startswith(PNG):
        return _png(data)
    if data.startswith(JPEG):
        return _jpeg(data)
    if data.startswith(BMP):
        return _bmp(data)
    if data.startswith(tiff.MAGIC):
        return _tiff(data)
    return damaged(data)


def damaged(data: bytes) -> str:
    """The message for a file that is no image, or not a whole one."""
    return (
        f"not a whole PNG, JPEG, BMP or TIFF image ({len(data)} bytes). "
        "Copy the file again or drop it."
    )


def _png(data: bytes) -> str | None:
    if data[25:26] == bytes([GREY_ALPHA]):
        return "a PNG of grey with alpha. Save it as grey, or as colour with alpha."
    if b"acTL" in data[: max(data.find(b"IDAT"), 0)]:
        return "an animated PNG. Save each frame in a file of its own."
    return None


def _jpeg(data: bytes) -> str | None:
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF and data[at + 1] not in FRAMES:
        fill = data[at + 1] == 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data[at + 9 : at + 10] == bytes([CMYK]):
        return "a JPEG in CMYK colours. Save it as grey or as red, green and blue."
    return None if data.find(b"\xff\xd9", at) >= 0 else damaged(data)


def _bmp(data: bytes) -> str | None:
    old = data[14:18] == bytes([12, 0, 0, 0])
    bits = int.from_bytes(data[24:26] if old else data[28:30], "little")
    if bits == 16:
        return "a BMP of 16 bits a pixel (5 or 6 a colour). Save it with 8 or 24 bits."
    return None


def _tiff(data: bytes) -> str | None:
    try:
        pages = tiff.pages(data)
    except ValueError as error:
        return f"a damaged TIFF: {error}. Copy the file again or drop it."
    if len({(page.shape, page.all(258)[0]) for page in pages}) != 1:
        return "a TIFF whose pages differ in size or type. Save each in a file of its own."
    changed = next((what for what in map(tiff.altered, pages) if what), None)
    return changed and (
        f"a TIFF with {changed}, which OpenCV would convert. Save each channel as an upright "
        "grey page of 8, 16 or (float) 32 bits."
    )
