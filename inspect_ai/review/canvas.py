"""What every plot shares: look, canvas, and SVG that takes its colours from the page.

Matplotlib draws with stand-in colours; each is then replaced by a variable of the page's style
sheet (light, dark or print). Texts stay texts, so they can be searched and take the page's font.
"""

import re
import warnings
from contextlib import AbstractContextManager
from io import StringIO

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

INK, FAINT, GOOD, BAD, FLAG, YARD = (
    "#010101", "#020202", "#030303", "#040404", "#050505", "#060606",
)  # fmt: skip
VARIABLES = {INK: "ink", FAINT: "faint", GOOD: "calm", BAD: "bad", FLAG: "alarm", YARD: "yard"}


def styled() -> AbstractContextManager[None]:
    """How every figure looks; a lot's name is never read as mathematics."""
    return rc_context(
        {
            "svg.fonttype": "none",
            "font.size": 9,
            "text.color": INK,
            "text.parse_math": False,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
        }
    )


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches, through which the page is seen."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    return figure, axes


def plain_log(axis: XAxis) -> None:
    """A logarithmic axis with plain numbers: names are never read as mathematics, nor are these."""
    axis.axes.set_xscale("log")
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element without ids that could come up twice on the page."""
    buffer = StringIO()
    with rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the font
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[A-Za-z.]+_\d+"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1
    )
