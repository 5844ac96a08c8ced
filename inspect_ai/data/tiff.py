"""What a TIFF file says of its pages, so that no pixel of it is changed in silence.

OpenCV gives back some kinds of TIFF as others: 10 to 14 bits are shifted up to 16, two samples
of 16 bits become one of 8, planes stored apart are mixed up, alpha is multiplied into 8-bit
colours, an orientation tag turns the page, white-is-zero is inverted at 8 bits and not at 16;
and a file cut off after its first page is read as a file of one page. So the tags are read here, by hand, and only the kinds
that come back bit for bit are let through: upright pages of 8 or 16 bit whole numbers or 32
bit floats, grey or blue-green-red, in any lossless packing, or JPEG.

Source: Adobe, TIFF revision 6.0, 1992, sections 2 and 8; BigTIFF as libtiff 4 writes it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
KINDS = {(1, 8): np.uint8, (1, 16): np.uint16, (3, 32): np.float32}  # (sample format, bits)
GREY, COLOUR, YCBCR, JPEG = 1, 2, 6, 7
TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # of whole numbers
DEFAULTS = {258: (1,), 259: (1,), 262: (-1,), 274: (1,), 277: (1,), 284: (1,), 338: (), 339: (1,)}


@dataclass(frozen=True, slots=True)
class Page:
    """The whole-number tags of one page, by their number in the specification."""

    tags: dict[int, tuple[int, ...]]

    def __getitem__(self, tag: int) -> int:
        return self.all(tag)[0]

    def all(self, tag: int) -> tuple[int, ...]:
        """All values of a tag, or its default."""
        return self.tags[tag] if tag in self.tags else DEFAULTS[tag]

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of a grey page, (H, W, S) of another."""
        grey = (self[257], self[256])
        return grey if self[277] == 1 else (*grey, self[277])

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The pixel type that the tags promise."""
        return np.dtype(KINDS[self[339], self[258]])


def pages(data: bytes) -> list[Page]:
    """The pages of a TIFF or BigTIFF file.

    Raises:
        ValueError: the chain of pages breaks off or a page lacks a tag; the file is damaged.
    """
    try:
        found = [Page(dict(_tags(data, where))) for where in _chain(data)]
        _ = found[0]
        for page in found:
            _ = page.shape, page[258], page[262], page[339]
    except (struct.error, KeyError, IndexError, OverflowError, MemoryError):
        raise ValueError("its pages or their tags are not whole") from None
    return found


def altered(page: Page) -> str | None:
    """What OpenCV would change about this page; None where it gives it back as it is."""
    bits, formats, samples = page.all(258), page.all(339), page[277]
    packed_colour = page[262] == YCBCR and page[259] == JPEG
    if len({*bits}) > 1 or len({*formats}) > 1 or (formats[0], bits[0]) not in KINDS:
        return f"samples of {bits[0]} bits (format {formats[0]})"
    if page[262] not in (GREY, COLOUR) and not packed_colour:
        return f"a colour scheme of its own (photometric tag {page[262]})"
    if samples not in (1, 3, 4) or (samples > 1 and page[262] == GREY):
        return f"{samples} samples of {bits[0]} bits in each pixel"
    if samples > 1 and page[284] != 1:
        return "planes stored apart"
    if bits[0] == 8 and page.all(338) not in ((), (1,)):
        return "an alpha channel beside 8-bit colours"
    return "an orientation tag that turns it" if page[274] != 1 else None


def _form(data: bytes) -> tuple[str, int, str, str]:
    """Byte order; place of the first offset; codes of an offset and of a count of tags."""
    order = "<" if data[:2] == b"II" else ">"
    return (order, 8, "Q", "Q") if data[2:4] in (b"+\0", b"\0+") else (order, 4, "I", "H")


def _chain(data: bytes) -> Iterator[int]:
    """Where each page's table of tags starts; each table ends with the place of the next."""
    order, at, offset, count = _form(data)
    seen: set[int] = set()
    (where,) = struct.unpack_from(order + offset, data, at)
    while where:
        if where in seen:
            raise ValueError("its pages run in a circle")
        seen.add(where)
        yield where
        (tags,) = struct.unpack_from(order + count, data, where)
        end = where + struct.calcsize(order + count) + tags * (20 if offset == "Q" else 12)
        (where,) = struct.unpack_from(order + offset, data, end)


def _tags(data: bytes, where: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(number, values) of a page's tags with few whole numbers; other tags are left out."""
    order, _, offset, count = _form(data)
    (tags,) = struct.unpack_from(order + count, data, where)
    first, room = where + struct.calcsize(order + count), struct.calcsize(offset)
    for at in range(first, first + tags * (4 + 2 * room), 4 + 2 * room):
        number, kind, n = struct.unpack_from(f"{order}HH{offset}", data, at)
        if kind not in TYPES or not 0 < n < 1000:
            continue
        code = f"{order}{n}{TYPES[kind]}"
        place = at + 4 + room
        if struct.calcsize(code) > room:
            (place,) = struct.unpack_from(order + offset, data, place)
        yield number, struct.unpack_from(code, data, place)
