"""Saved states of a training run: killed anywhere, it goes on as if nothing had happened.

A state is named tensors and a step, kept in one safetensors file that replaces the one before
in a single move. Nothing is pickled. Random draws need no state: they depend on the step.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class Checkpoints:
    """Keeps the newest state of one run in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Replaces the saved state; a kill in between leaves the one before."""
        part = self.path.with_suffix(".part")
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        save_file(plain, part, metadata={"step": str(step)})
        part.replace(self.path)

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The step to go on from, and its tensors; None at the first start."""
        if not self.path.is_file():
            return None
        with safe_open(self.path, framework="pt") as file:
            step = int(file.metadata()["step"])
            return step, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def drop(self) -> None:
        """Removes the state of a finished run."""
        self.path.unlink(missing_ok=True)


def load_into(module: torch.nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies named tensors into a module that has exactly these names."""
    module.load_state_dict(tensors, strict=True)
