"""Scorer: a bundle answered by ONNX Runtime; no torch."""

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.bundle import Bundle
from inspect_ai.data.conditions import Places
from inspect_ai.errors import BadBundle, BadImages, NoSuchDevice
from inspect_ai.scores import Pixels, Scores

Device = Literal["auto", "cpu", "cuda"]
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Scorer:
    """Scores pixels of a file's own type with a bundle's model.

    Args:
        bundle: a bundle, or its folder.
        device: "cuda" fails where the session does not really run there; "auto" takes it if
            it does.
        threads: of one call; 0 takes all cores.

    Raises:
        BadBundle: the folder's content was changed.
        NoSuchDevice: "cuda" was asked for and is not there.
    """

    def __init__(self, bundle: Bundle | Path, device: Device = "auto", threads: int = 0) -> None:
        self.bundle = bundles.read(bundle) if isinstance(bundle, Path) else bundle
        self.session = open_session(self.bundle.model, device, threads)
        named = self.session.get_modelmeta().custom_metadata_map.get("calibration")
        if named != self.bundle.card.hashes[bundles.SCORES]:
            raise BadBundle(
                f"{self.bundle.model} was calibrated with another {bundles.SCORES} than the one "
                "beside it. Export the bundle again, or restore the file."
            )

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the session really runs."""
        return "cuda" if CUDA in self.session.get_providers() else "cpu"

    def score(self, pixels: Pixels, condition: Places | None = None) -> Scores:
        """Scores of (N, C, H, W) pixels in the file's own type, wafer maps padded with 0.

        Args:
            condition: (N,) places among the card's `condition` values, where it has them.

        Raises:
            BadImages: a condition is missing, or given where none is asked for.
        """
        asked = self.bundle.card.condition
        places = np.empty(0, np.int64) if condition is None else condition
        values = len(asked.values) if asked else 0
        known = bool(((places >= 0) & (places < values)).all())
        if not (known and len(places) == len(pixels)) if asked else condition is not None:
            wanted = f"one in 0 .. {values - 1} for each of {len(pixels)} images"
            raise BadImages(
                f"Conditions of the images: {places.tolist() or 'none'}; needed "
                f"{wanted if asked else 'none'}. Pass their places among the values that "
                "bundle.json lists under 'condition'."
            )
        return answer(self.session, pixels, condition)


def answer(
    session: ort.InferenceSession, pixels: Pixels, condition: Places | None = None
) -> Scores:
    """What a session says of a batch."""
    given: dict[str, object] = {"input": pixels}
    if condition is not None:
        given["condition"] = condition
    found = session.run(["pred_score", "anomaly_map", "expected"], given)
    return Scores(*(np.asarray(array) for array in found))


def open_session(model: Path, device: Device, threads: int = 0) -> ort.InferenceSession:
    """A session on the device asked for.

    Raises:
        NoSuchDevice: "cuda" was asked for and the session is not on it.
    """
    if device == "cpu" or (device == "auto" and not has_driver()):
        return _session(model, [CPU], threads)
    ort.set_default_logger_severity(4)  # a provider that does not load is our message
    if CUDA not in ort.get_available_providers():
        return _refused(model, device, threads, "this onnxruntime was built without CUDA")
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    session = _session(model, [CUDA, CPU], threads)
    if CUDA in session.get_providers():  # ONNX Runtime falls back without an error
        return session
    return _refused(model, device, threads, "the session fell back to the CPU")


def has_driver() -> bool:
    """Whether an NVIDIA driver can be loaded at all; asking ONNX Runtime would print errors."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def check_cuda() -> str:
    """Whether this ONNX Runtime could use a GPU, in words."""
    built = CUDA in ort.get_available_providers()
    if not built:
        return "built for the CPU only"
    return "built with CUDA; a scan with --device cuda proves that it works"


def _session(model: Path, providers: Sequence[str], threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 4  # fallbacks are our message, not blocks on stderr
    # threads that spin between calls take the cores that read images
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), options, providers=list(providers))


def _refused(model: Path, device: Device, threads: int, why: str) -> ort.InferenceSession:
    if device == "cuda":
        raise NoSuchDevice(
            f"--device cuda was asked for, but {why}. Install a driver with CUDA 13 and cuDNN 9 "
            "('inspect-ai doctor' tells what is there), or pass --device cpu."
        )
    return _session(model, [CPU], threads)
