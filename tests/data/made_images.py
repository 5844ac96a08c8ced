"""Small image files of every kind, some written by hand: no library writes all of them."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

SIDES = (20, 30)  # rows, columns


def noise(channels=1, dtype=np.uint8):
    """(H, W) or (H, W, C) random pixels over the whole range of the type; floats in [0, 1)."""
    rng = np.random.default_rng(0)
    shape = SIDES if channels == 1 else (*SIDES, channels)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def encoded(suffix, pixels):
    """A file as OpenCV writes it."""
    return cv2.imencode(suffix, pixels)[1].tobytes()


def pillow(pixels, form, mode=None, **options):
    """A file as Pillow writes it."""
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("P", palette=Image.Palette.ADAPTIVE)
    elif mode:
        image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    image.save(file, form, **options)
    return file.getvalue()


def animated(first, second):
    """A PNG of two frames."""
    file = io.BytesIO()
    Image.fromarray(first).save(file, "PNG", save_all=True, append_images=[Image.fromarray(second)])
    return file.getvalue()


def exif(orientation):
    """A tag that asks viewers to turn the image."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, width, bits, colour, more=b""):
    """A PNG of packed rows. colour: 0 grey, 2 colour, 3 palette, 4 grey with alpha."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = _chunk(b"IHDR", head) + more + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def png_of(pixels, colour, more=b""):
    """A PNG of 8 or 16 bits a sample."""
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = [row.tobytes() for row in big]
    return png(rows, pixels.shape[1], 8 * pixels.itemsize, colour, more)


def gamma():
    """A chunk that asks viewers to brighten the image."""
    return _chunk(b"gAMA", struct.pack(">I", 100000))


def bmp(data, bits, rows, cols):
    """A BMP without palette."""
    head = struct.pack("<IiiHHIIiiII", 40, cols, rows, 1, bits, 0, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + head + data


TIFF_TYPES = {"H": 3, "I": 4, "Q": 16}


def tiff(*pages, order="<", big=False, **tags):
    """A TIFF of (H, W) or (H, W, S) pages, one strip each; tags by name override, see TAGS."""
    file = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    start = 16 if big else 8
    file += struct.pack(order + "HHQ", 8, 0, start) if big else struct.pack(order + "I", start)
    for number, page in enumerate(pages, start=1):
        last = number == len(pages)
        file += _tiff_page(page, len(file), order + ("Q" if big else "I"), last, tags)
    return file


TAGS = {"bits": 258, "packing": 259, "photo": 262, "turn": 274, "planes": 284}
TAGS |= {"alpha": 338, "format": 339}


def _tiff_page(page, at, offset, last, changes):
    """One table of tags, the values that do not fit into it, then the pixels."""
    order, room = offset[0], struct.calcsize(offset)
    samples = page.shape[2] if page.ndim == 3 else 1
    data = page.astype(page.dtype.newbyteorder(order)).tobytes()
    if changes.get("packing") == 8:
        data = zlib.compress(data)
    kind = {"u": 1, "i": 2, "f": 3, "b": 1}[page.dtype.kind]
    tags = {256: page.shape[1], 257: page.shape[0], 258: (8 * page.itemsize,) * samples}
    tags |= {259: 1, 262: 1 if samples == 1 else 2, 273: 0, 277: samples, 278: page.shape[0]}
    tags |= {279: len(data), 339: (kind,) * samples}
    tags |= {TAGS[name]: value for name, value in changes.items() if name in TAGS}
    count, entry = ("Q", 20) if room == 8 else ("H", 12)
    size = struct.calcsize(order + count) + entry * len(tags) + room
    entries, more = b"", b""
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, tuple) else (value,)
        code = offset[1] if tag in (273, 279) else "H"
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if tag == 273:  # the pixels come last, so their place is known once all tags are
            spilled = sum(_spill(v, room) for v in tags.values())
            packed = struct.pack(offset, at + size + spilled)
        if len(packed) > room:
            packed, more = struct.pack(offset, at + size + len(more)), more + packed
        head = struct.pack(f"{order}HH{offset[1]}", tag, TIFF_TYPES[code], len(values))
        entries += head + packed.ljust(room, b"\0")
    after = 0 if last else at + size + len(more) + len(data)
    table = struct.pack(order + count, len(tags)) + entries + struct.pack(offset, after)
    return table + more + data


def _spill(value, room):
    size = 2 * len(value) if isinstance(value, tuple) else 0
    return size if size > room else 0


def packed(values, bits):
    """(H, W) whole numbers as rows of `bits` bits each."""
    rows = ("".join(f"{v:0{bits}b}" for v in row) for row in values)
    return [int(row, 2).to_bytes(len(row) // 8, "big") for row in rows]
