"""A promise counted over many calibrations: kinds of good scores, and a row of the table.

Scores are drawn from a known law, so overkill is not estimated: it is the share of the law above
the threshold that each draw sets.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import beta, binom, geom, kstest, lognorm, norm, t

from inspect_ai.scores import Bool, Float32, Float64

SPLITS = 2000
DELTA = 0.05  # share of draws that may break a promise with confidence
SURE = 0.999  # of the limits by which a promise is called broken
Draw = Callable[[np.random.Generator, int], Float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """A law of good scores.

    Args:
        draw: (generator, n) to (n,) independent scores.
        above: (N,) thresholds to the share of the law strictly above each.
        smooth: without ties, where overkill follows a Beta law.
    """

    name: str
    draw: Draw
    above: Callable[[Float64], Float64]
    smooth: bool = True

    def generator(self, *of: int) -> np.random.Generator:
        """Draws that depend on the kind and these numbers alone."""
        return np.random.default_rng([*self.name.encode(), *of])


KINDS = (
    Kind(
        "normal",
        lambda rng, n: rng.standard_normal(n).astype(np.float32),
        lambda at: np.asarray(norm.sf(at)),
    ),
    Kind(
        "heavy-tailed (t, 2)",
        lambda rng, n: rng.standard_t(2, n).astype(np.float32),
        lambda at: np.asarray(t.sf(at, 2)),
    ),
    Kind(
        "lognormal",
        lambda rng, n: rng.lognormal(size=n).astype(np.float32),
        lambda at: np.asarray(lognorm.sf(at, 1)),
    ),
    Kind(
        "discrete",
        lambda rng, n: rng.geometric(0.5, n).astype(np.float32),
        lambda at: np.asarray(geom.sf(at, 0.5)),
        smooth=False,
    ),
    Kind(
        "constant",
        lambda _, n: np.ones(n, np.float32),
        lambda at: (at < 1).astype(np.float64),
        smooth=False,
    ),
)


@dataclass(frozen=True, slots=True)
class Row:
    """What was promised of a rule, and what came of it.

    Args:
        n: what it was calibrated on.
        promised: a share, or a number of images; None where nothing is promised.
        observed: mean over the draws; None where there is none.
        low, high: 95 % limits of that mean.
        allowed: share of draws that may break the promise, where it is one with confidence.
        broken: share of draws that did.
        law: KS p-value of overkill against Beta(r, n + 1 - r).
        kept: None where nothing is promised.
    """

    rule: str
    scores: str
    n: str
    promised: float | None
    observed: float | None
    low: float | None
    high: float | None
    allowed: float | None = None
    broken: float | None = None
    law: float | None = None
    kept: bool | None = None
    unit: str = "%"
    at_least: bool = False
    note: str = ""

    @property
    def fields(self) -> dict[str, object]:
        """For the JSON table."""
        return asdict(self)

    def __str__(self) -> str:
        """As a row of the Markdown table."""
        promised = self._said(self.promised) or "nothing"
        promised = f"at least {promised}" if self.at_least else promised
        observed = self._said(self.observed)
        if self.observed is not None:
            observed += f" ({self._said(self.low, '')} to {self._said(self.high, '')})"
        broken = "" if self.broken is None else f"{100 * self.broken:.2f} %"
        if self.allowed is not None:
            broken += f" (may: {100 * self.allowed:.3g} %)"
        law = "" if self.law is None else f"{self.law:.2g}"
        kept = {None: "", True: "yes", False: "**no**"}[self.kept]
        kept = ", ".join(filter(None, (kept, self.note)))
        cells = (self.rule, self.scores, self.n, promised, observed, broken, law, kept)
        return f"| {' | '.join(cells)} |"

    def _said(self, number: float | None, unit: str | None = None) -> str:
        if number is None:
            return ""
        unit = f" {self.unit}" if unit is None else unit
        if self.unit != "%":
            return f"{number:,.{0 if number >= 100 else 1}f}{unit}"
        share = 100 * number
        return f"{share:.{_digits(share)}f}{unit}"


def _digits(share: float) -> int:
    """So many that two or three are shown that count."""
    return 2 if share >= 0.1 or share == 0 else 1 - math.floor(math.log10(share))


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Lines of the Markdown table."""
    heads = (
        "rule",
        "scores",
        "calibrated on",
        "promised",
        "observed, mean (95 % limits)",
        "draws that broke it",
        "KS p-value",
        "kept?",
    )
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    yield from map(str, rows)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is counted, and of what.

    Args:
        rate: promised share.
        confidence: of the promise; None where it is on average.
    """

    rule: str
    scores: str
    n: str
    rate: float
    confidence: float | None = None


def judged(
    asked: Asked,
    shares: Float64,
    broken: Bool | None = None,
    law: tuple[int, int] | None = None,
    note: str = "",
) -> Row:
    """A row from the overkill of each draw.

    A promise on average is called broken where the mean lies above it, and one with confidence
    where more draws break it than may, by more than chance allows: of a promise that is kept to
    the letter, one row in 1,000 would say that.

    Args:
        shares: (draws,) observed overkill.
        broken: (draws,) whether a draw broke the promise; shares above the rate if not given.
        law: r and n + 1 - r of the Beta law that overkill follows, where it does.
    """
    mean, low, high = mean_of(shares)
    ks = None if law is None else float(kstest(shares, beta(*law).cdf).pvalue)
    bad, allowed = None, None
    if asked.confidence is None:
        kept = mean - float(norm.ppf(SURE)) * (high - mean) / 1.96 <= asked.rate * (1 + 1e-9)
    else:
        allowed = 1 - asked.confidence
        broke = shares > asked.rate * (1 + 1e-9) if broken is None else broken
        bad = float(broke.mean())
        kept = int(broke.sum()) <= int(binom.ppf(SURE, len(broke), allowed))
    row = (asked.rule, asked.scores, asked.n, asked.rate, mean, max(0.0, low), high)
    return Row(*row, allowed, bad, ks, kept, note=note)


def mean_of(values: Float64) -> tuple[float, float, float]:
    """The mean and its 95 % limits."""
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    return mean, mean - 1.96 * error, mean + 1.96 * error
