"""From a file to pixels in the file's own type, checked against the image rule.

Nothing is converted on the way: an 8-bit file stays uint8, a 16-bit file uint16, and what
does not fit the rule is refused by name; headers.py says what each format holds. Colours stay
in OpenCV's order (blue, green, red). A file of several TIFF pages is an image of several
channels.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from inspect_ai.data import headers, tiff
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import BadImages
from inspect_ai.scores import Pixels

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
OFF_WAFER, PASS, FAIL = 0, 1, 2

# a damaged file is our message, not a block of OpenCV's own on stderr
SILENT = 0
_set_log_level = getattr(cv2, "setLogLevel", None)  # OpenCV 4; 5 has it elsewhere
(_set_log_level or cv2.utils.logging.setLogLevel)(SILENT)


def read(path: Path, rule: ImageRule) -> Pixels:
    """One picture as (C, H, W), or a wafer map stored as a picture as (1, H, W).

    Args:
        path: PNG, JPEG, BMP or TIFF.
        rule: what it must look like.

    Raises:
        BadImages: not readable, or type, channels, size or a value break the rule.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImages(f"{name}: {error.strerror}. Restore the file or drop it.") from None
    return checked(_decoded(data, name), rule, name)


def checked(pixels: Pixels, rule: ImageRule, name: str) -> Pixels:
    """(C, H, W) pixels that keep the rule, unchanged.

    Raises:
        BadImages: names the file, what it holds, what the rule needs.
    """
    if pixels.dtype != rule.dtype:
        raise BadImages(
            f"{name}: pixels are {pixels.dtype}, the spec says depth = {rule.depth} "
            f"({np.dtype(rule.dtype)}). Correct 'depth' in the spec or the file."
        )
    if pixels.ndim != 3 or not pixels.size:
        raise BadImages(f"{name}: an array of shape {pixels.shape}. Make it rows by columns.")
    channels, height, width = pixels.shape
    if channels != rule.channels:
        raise BadImages(
            f"{name}: {channels} channel(s), the spec says {rule.channels}. "
            "Correct 'channels' in the spec or the file."
        )
    if rule.height is not None and (height, width) != (rule.height, rule.width):
        raise BadImages(
            f"{name}: {height} x {width} pixels, the spec says {rule.height} x {rule.width}. "
            "Drop 'height' and 'width' from the spec to allow any size."
        )
    _check_values(pixels, rule, name)
    return pixels


def content_id(pixels: Pixels) -> str:
    """Names the content: 32 hexadecimal digits from pixels, type and shape."""
    head = f"{pixels.dtype.str}{pixels.shape}".encode()
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, key=head).hexdigest()


def stacked(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures (C, H, W) of one shape and type as one batch (N, C, H, W)."""
    batch: Pixels = np.stack(pictures)  # type: ignore[assignment]
    return batch


def padded(maps: list[Pixels], canvas: tuple[int, int]) -> Pixels:
    """Wafer maps (1, h, w) of any shape as one batch (N, 1, H, W), off-wafer around them.

    Args:
        maps: bin maps in the top-left corner of their own arrays.
        canvas: smallest (H, W) of the batch; a larger map makes it larger. A fixed canvas
            gives a map the same score whatever else is in its batch.
    """
    height = max(canvas[0], *(m.shape[1] for m in maps))
    width = max(canvas[1], *(m.shape[2] for m in maps))
    batch = np.zeros((len(maps), 1, height, width), np.uint8)
    for i, m in enumerate(maps):
        batch[i, :, : m.shape[1], : m.shape[2]] = m
    return batch


def _decoded(data: bytes, name: str) -> Pixels:
    """Bytes to (C, H, W) in the file's own type."""
    fault = headers.fault(data)
    if fault is None:
        pages = _pages(data)
        fault = None if pages else headers.damaged(data)
    if fault is not None:
        raise BadImages(f"{name}: {fault}")
    planes = [page[None] if page.ndim == 2 else np.moveaxis(page, 2, 0) for page in pages]
    return np.ascontiguousarray(np.concatenate(planes))


def _pages(data: bytes) -> list[Pixels]:
    """(H, W) or (H, W, C) of each page; none where OpenCV cannot read the file whole."""
    buffer = np.frombuffer(data, np.uint8)
    try:
        if not data.startswith(tiff.MAGIC):
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            return [] if image is None else [_pixels(image)]
        _, decoded = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error:  # for example more pixels than OpenCV allows
        return []
    found = [_pixels(page) for page in decoded]
    wanted = [(page.shape, page.dtype) for page in tiff.pages(data)]
    return found if [(page.shape, page.dtype) for page in found] == wanted else []


def _pixels(image: object) -> Pixels:
    """OpenCV's array, whose type its own hints leave open; `checked` looks at it."""
    return cast(Pixels, np.asarray(image))


def _check_values(pixels: Pixels, rule: ImageRule, name: str) -> None:
    low, high = float(pixels.min()), float(pixels.max())  # NaN passes through min and max
    smallest = rule.minimum if rule.depth == 32 else 0.0
    if not (smallest <= low and high <= rule.largest):
        wrong = low if not smallest <= low else high
        raise BadImages(
            f"{name}: a pixel of {wrong:g}, the spec allows {smallest:g} to {rule.largest:g}. "
            "Correct 'depth', 'minimum' or 'maximum' in the spec, or the file."
        )
    if rule.kind == "wafer_map" and high == OFF_WAFER:
        raise BadImages(f"{name}: a wafer map with no die (all 0). Drop it from the data.")
