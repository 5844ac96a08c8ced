"""The table as Markdown and as cells for the page: printed from rows, without data or models."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.benchmark import lines, plan, results
from inspect_ai.benchmark.lines import Line, Section
from inspect_ai.benchmark.plan import BASELINE
from inspect_ai.benchmark.rows import Figure, enough

SHOWN = 5  # classes in the table, those with the most test images; the page has all
KNOWN = {"wm811k": ("Center", "Edge-Loc", "Edge-Ring", "Loc", "Scratch")}  # shown whatever they are
NOTHING, FEW = "–", "too few"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and what a line says under it."""

    title: str
    cell: Callable[[Line], str]


def markdown(sections: Sequence[Section], profile: str) -> str:
    """One table for each data set, under a line that says what made it."""
    parts = [_head(sections, profile), *(_section(section) for section in sections)]
    return "\n\n".join(parts) + "\n"


def printed(profile: str, runs: Path, kept: Path) -> str:
    """The table of the rows that stand; needs no data, no torch, and trains nothing.

    Args:
        runs: folder of run files. kept: folder of rows.

    Raises:
        BadSettings: no such profile.
        MissingData: no run file.
    """
    asked = plan.profile(profile)
    rows = results.read_all(kept, profile)
    return markdown(lines.sections(plan.entries(runs, asked), rows), profile)


def columns(section: Section, by_class: bool = True) -> list[Column]:
    """Of wafer maps: captures, also by class, escape and overkill. Of pictures: AUPRO."""
    wafers = section.kind == "wafer_map"
    start = [Column("detector", _name), Column("AUROC", _ranged("auroc", 4))]
    fpr = Column("FPR@95TPR", _plain("fpr_at_95_tpr", 3))
    capture = Column("capture at 1 %", _capture("capture_at_1"))
    if wafers:
        finer = Column("at 0.1 %", _capture("capture_at_01"))
        kinds = KNOWN.get(section.data) or sorted(c.name for c in section.classes[:SHOWN])
        floor = [Column("escape", _plain("escape", 3)), Column("overkill", _overkill)]
        of_class = [Column(name, _class(name)) for name in kinds if by_class]
        middle = [fpr, capture, finer, *of_class, *floor]
    else:
        middle = [Column("AUPRO", _ranged("aupro", 3)), fpr, capture]
    return [*start, *middle, Column("against the best baseline", against), *_costs()]


def against(line: Line) -> str:
    """How a line does against the best baseline of its data, profile and seed."""
    if line.best:
        return "best baseline"
    if line.family == BASELINE or not line.verdicts:
        return "baseline" if line.family == BASELINE else NOTHING
    named = sorted({row.against for row in line.rows if row.against})
    difference = line.figure("auroc_difference"), line.figure("capture_difference")
    told = f"AUROC {signed(difference[0], 4)}"
    told += f", capture {signed(difference[1], 3)}" if difference[1] else ""
    times = line.verdicts.count(line.verdict)
    of = f" in {times} of {len(line.verdicts)} seeds" if len(line.verdicts) > 1 else ""
    word = {"loses": "loses to", "beats": "beats", "level": "level with"}[line.verdict]
    return f"{told}: {word} {', '.join(named)}{of}"


def short(value: float, digits: int) -> str:
    """0.9934 as .9934; 1 as 1.0000."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if abs(value) < 1 else text


def ranged(figure: Figure | None, digits: int) -> str:
    """A value and its interval, or least and largest of several seeds."""
    if figure is None:
        return NOTHING
    told = short(figure.value, digits)
    if figure.low is None or figure.high is None:
        return told
    return f"{told} ({short(figure.low, digits)} to {short(figure.high, digits)})"


def signed(figure: Figure | None, digits: int) -> str:
    """+.0052 (+.0040 to +.0065)."""
    if figure is None:
        return NOTHING
    ends = (figure.value, figure.low, figure.high)
    value, low, high = (None if end is None else _signed(end, digits) for end in ends)
    return f"{value} ({low} to {high})" if low and high else f"{value}"


def is_few(line: Line, name: str) -> bool:
    """Whether fewer than ten good images of a row may exceed the threshold of this capture."""
    return not all(enough(row, name) for row in line.rows)


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}".removeprefix("0")
    return f"{'-' if value < 0 else '+'}{text}"


def _head(sections: Sequence[Section], profile: str) -> str:
    rows = [row for section in sections for row in section.rows]
    commits = ", ".join(sorted({row.commit for row in rows})) or "none yet"
    cores = " and ".join(sorted({f"{row.cores}" for row in rows})) or "no"
    return (
        f"Profile `{profile}`, made at commit {commits} on {cores} CPU cores; printed by "
        f"`inspect-ai benchmark --profile {profile} --print`. In brackets: 95 % intervals, groups "
        "redrawn; of several seeds, least and largest; behind images/s, times the autoencoder's."
    )


def _section(section: Section) -> str:
    wanted = columns(section)
    told = [line for line in section.lines if line.rows]
    silent = [line for line in section.lines if not line.rows]
    head = f"**{section.data}**{_images(section)}"
    table = [_bar(c.title for c in wanted), "|" + "---|" * len(wanted)]
    table += [_bar(c.cell(line) for c in wanted) for line in told]
    table += [_bar([_name(line), *[""] * (len(wanted) - 1)]) for line in silent]
    return f"{head}\n\n" + "\n".join(table)


def _images(section: Section) -> str:
    """What the rows were tested on; of several copies of the data, each."""
    kinds = sorted({(r.good_images, r.bad_images, r.groups) for r in section.rows}, reverse=True)
    told = [f"{g:,} good and {b:,} defect images in {n:,} groups" for g, b, n in kinds]
    return f": {'; or '.join(told)}, none trained on" if told else ""


def _bar(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _name(line: Line) -> str:
    extra = "; ".join(part for part in (line.seeds, line.note) if part)
    return f"{line.run}: {extra}" if extra else line.run


def _ranged(name: str, digits: int) -> Callable[[Line], str]:
    return lambda line: ranged(line.figure(name), digits)


def _plain(name: str, digits: int) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        figure = line.figure(name)
        return NOTHING if figure is None else short(figure.value, digits)

    return cell


def _capture(name: str) -> Callable[[Line], str]:
    """The value all the same where ten good images are too many to ask for."""

    def cell(line: Line) -> str:
        told = ranged(line.figure(name), 3)
        return f"{told} ({FEW})" if told != NOTHING and is_few(line, name) else told

    return cell


def _class(name: str) -> Callable[[Line], str]:
    def cell(line: Line) -> str:
        figure = line.of_class(name, "capture_at_1")
        if figure is None:
            return NOTHING
        return FEW if is_few(line, "capture_at_1") else short(figure.value, 2)

    return cell


def _overkill(line: Line) -> str:
    figure, promised = line.figure("overkill"), line.number("promised")
    if figure is None or promised is None:
        return NOTHING
    ends = (
        ""
        if figure.low is None or figure.high is None
        else f" ({100 * figure.low:.2f} to {100 * figure.high:.2f})"
    )
    return f"{100 * figure.value:.2f} %{ends}, promised {100 * promised:g} %"


def _speed(line: Line) -> str:
    """In brackets: times the autoencoder's, scanned in turns."""
    rate, ratio = line.number("images_per_second"), line.number("speed_ratio")
    if rate is None:
        return NOTHING
    return f"{rate:,.0f}" if ratio is None else f"{rate:,.0f} ({ratio:.2f} x)"


def _costs() -> list[Column]:
    def cell(name: str, form: Callable[[float], str]) -> Callable[[Line], str]:
        def text(line: Line) -> str:
            value = line.number(name)
            return NOTHING if value is None else form(value)

        return text

    return [
        Column("train s", cell("train_seconds", lambda s: f"{s:,.0f}")),
        Column("images/s", _speed),
        Column("MB", cell("model_bytes", lambda b: f"{b / 1e6:.2f}")),
    ]
