"""Size of a network that takes noise away, and the grids that it fits."""

from typing import Literal, NamedTuple

from pydantic import Field

from inspect_ai.errors import BadSettings
from inspect_ai.settings import Settings


class Ends(NamedTuple):
    """What goes in and comes out of a network."""

    inputs: int  # channels of x, with the coverage
    outputs: int  # channels of what is said of a cell
    grid: tuple[int, int]  # (h, w)
    classes: int = 0  # products or layers; 0: it is told of none


class Sizes(Settings):
    """Size of a network that takes noise away."""

    network: Literal["unet", "dit"] = "unet"
    width: int = Field(default=32, ge=8, le=1024, multiple_of=8)  # of the finest level, or a token
    depth: int = Field(default=2, ge=1, le=24)  # U-Net: levels; DiT: blocks
    blocks: int = Field(default=1, ge=1, le=8)  # U-Net: residual blocks a level, each way
    patch: Literal[1, 2, 4, 8] = 4  # side of a square of cells that is read as one
    heads: Literal[1, 2, 4, 8] = 4  # of attention
    tokens: int = Field(default=4, ge=1, le=64)  # learned for each product or layer

    def require(self, grid: tuple[int, int]) -> None:
        """Refuses a grid that the network cannot be laid on.

        Raises:
            BadSettings: a side is no multiple of the patch, or cannot be halved often enough.
        """
        unet = self.network == "unet"
        step = self.patch * 2 ** (self.depth - 1) if unet else self.patch
        if grid[0] % step or grid[1] % step:
            levels = f" and depth = {self.depth}" if unet else ""
            fits = "a smaller patch or depth" if unet else "a smaller patch"
            raise BadSettings(
                f"A grid of {grid[0]} x {grid[1]} for a {self.network} of patch = {self.patch}"
                f"{levels}; needed are sides that are multiples of {step}. Use such a grid, or "
                f"{fits}."
            )
