"""Anomaly maps and pictures of a scan, written beside the scoring.

A flagged image gets its map (float TIFF), the mask of what lies above the pixel threshold (PNG, in
the image's own size), the regions of that mask, and a picture (image, expectation, map); with
masks to judge them, every image gets its map. Drawing and writing wait for the disk more than for the
processor, so a thread of their own does it; a part counts only when its pictures are written.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from inspect_ai.batch import regions
from inspect_ai.batch.ledger import Ledger
from inspect_ai.batch.stages import MASKS, Scored
from inspect_ai.bundle.bundle import Bundle
from inspect_ai.review import pictures

WAITING = 64  # pictures not yet written; more would fill memory on a batch of nothing but alarms


class Maps:
    """Writes maps and pictures in the background; a `with` block ends the thread."""

    def __init__(self, bundle: Bundle, ledger: Ledger, plan: pd.DataFrame, keep_all: bool) -> None:
        self.card, self.ledger, self.keep_all = bundle.card, ledger, keep_all
        self.yardsticks = bundle.thresholds.scores
        self.level = self.yardsticks.level(plan)
        self.pixel_threshold = bundle.thresholds.of_pixels(self.level)
        self.paths = plan["image_path"].tolist()
        self.found: list[pd.DataFrame] = []
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="maps")
        self.waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.thread.shutdown(cancel_futures=True)

    def keep(self, batch: Sequence[Scored]) -> None:
        """Takes what is to be kept of a batch.

        Raises:
            OSError: an earlier picture could not be written.
        """
        scores = np.array([scored.pred_score for scored in batch], np.float32)
        level = self.level.iloc[[scored.seen.row for scored in batch]]
        for scored, flagged in zip(batch, self.yardsticks.is_anomalous(scores, level), strict=True):
            if flagged or self.keep_all:
                self.waiting.append(self.thread.submit(self._keep, scored, bool(flagged)))
        self.settle(WAITING)

    def regions(self) -> pd.DataFrame:
        """Regions of the flagged images since the last call; when nothing waits."""
        found, self.found = self.found, []
        none = regions.regions(np.zeros((1, 1), np.float32), 0.0).assign(image_id="", image_path="")
        return pd.concat([none, *found], ignore_index=True)

    def settle(self, left: int = 0) -> None:
        """Waits until at most `left` are unwritten.

        Raises:
            OSError: one could not be written.
        """
        while len(self.waiting) > left:
            self.waiting.popleft().result()

    def _keep(self, scored: Scored, flagged: bool) -> None:
        pixels, name, rule = scored.seen.pixels, scored.seen.image_id, self.card.image
        assert pixels is not None, "what could not be read has no score"
        heat = kept = scored.anomaly_map
        if self.card.canvas is not None:
            heat = heat[: pixels.shape[1], : pixels.shape[2]]
            kept = np.where(pixels[0] > 0, heat, np.float32(-np.inf))  # off-wafer: no say
        self.ledger.keep(f"{name}.tiff", _encoded(".tiff", kept))
        if not flagged:
            return
        threshold = float(self.pixel_threshold[scored.seen.row])
        size = pixels.shape[1], pixels.shape[2]
        expected = scored.expected
        if rule.kind == "picture" and rule.resize == "fit":
            heat = kept = regions.inside(kept, size)
            expected = regions.inside(expected, size)
        cells = regions.mask(kept, threshold).astype(np.uint8) * 255
        mask = cv2.resize(cells, size[::-1], interpolation=cv2.INTER_NEAREST)
        self.ledger.keep(f"{name}.png", _encoded(".png", mask), MASKS)
        strip = pictures.strip(pixels, expected, heat, rule, threshold)
        self.ledger.keep(f"{name}.png", _encoded(".png", strip))
        found = regions.regions(kept, threshold, size)
        self.found.append(found.assign(image_id=name, image_path=self.paths[scored.seen.row]))


def _encoded(kind: str, array: NDArray[Any]) -> bytes:
    # OpenCV's own compression level is four times quicker than any that is asked for
    encoded, data = cv2.imencode(kind, array)
    assert encoded, f"OpenCV cannot write {array.dtype} {array.shape} as {kind}"
    return data.tobytes()
