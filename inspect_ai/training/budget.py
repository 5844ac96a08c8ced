"""How long and how fast to train."""

from pydantic import Field

from inspect_ai.settings import Settings


class Budget(Settings):
    """The size of one training run; two runs with equal budgets and data give equal weights.

    Not so with `seconds`: how far they reach depends on the machine.
    """

    steps: int = Field(ge=1)
    seconds: float | None = Field(default=None, gt=0)  # ends sooner when they are over
    batch_size: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)  # at its highest; see descent.rate
    average: float = Field(default=0.995, ge=0, lt=1)  # decay of the weights' running mean
    seed: int = Field(default=0, ge=0, lt=2**31)
    save_every: int = Field(default=200, ge=1)  # steps between two saved states
