"""The page: the table, every class as a heat table, and the plots, in one file."""

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

import inspect_ai
from inspect_ai import review, steps
from inspect_ai.benchmark import plots, table
from inspect_ai.benchmark.lines import Line, Section
from inspect_ai.benchmark.rows import ClassFigures
from inspect_ai.review import words

PAGE = "benchmark.html"


def render(sections: Sequence[Section], profile: str, skipped: Sequence[str], out: Path) -> Path:
    """Writes benchmark.html; every value on it is escaped.

    Raises:
        OutputInUse, NoSpace: the folder cannot be written to.
    """
    template = _environment().get_template("page.html")
    rows = [row for section in sections for row in section.rows]
    text = template.render(
        profile=profile,
        skipped=skipped,
        sections=[_shown(section) for section in sections],
        commits=sorted({row.commit for row in rows}),
        newest=max((row.created_at for row in rows), default=""),
        counts=_counts(sections),
        made_by=f"inspect_ai {inspect_ai.__version__}",
    )
    with steps.disk(out):
        out.mkdir(parents=True, exist_ok=True)
        part = out / f"{PAGE}.part"
        part.write_text(text, encoding="utf-8")
        part.replace(out / PAGE)
    return out / PAGE


def _environment() -> jinja2.Environment:
    folders = [Path(__file__).parent, Path(review.__file__).parent]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": words.count, "when": words.when}
    return environment


def _counts(sections: Sequence[Section]) -> dict[str, int]:
    lines = [line for section in sections for line in section.lines]
    told = [line for line in lines if line.rows]
    return {
        "detectors": len(told),
        "silent": len(lines) - len(told),
        "rows": sum(len(line.rows) for line in told),
        "beats": sum(line.verdict == "beats" for line in told),
        "loses": sum(line.verdict == "loses" for line in told),
    }


def _shown(section: Section) -> dict[str, object]:
    """What the page says of one data set."""
    told = [line for line in section.lines if line.rows]
    first = section.rows[0] if section.rows else None
    wanted = table.columns(section, by_class=False)  # the heat table has all of them
    svgs = {"speed": plots.speed(section), "aurocs": plots.aurocs(section)}
    return {
        "data": section.data,
        "row": first,
        "titles": [column.title for column in wanted],
        "lines": [(line, [column.cell(line) for column in wanted]) for line in told],
        "silent": [line for line in section.lines if not line.rows],
        "classes": section.classes,
        "heat": [(line, [_heat(line, c) for c in section.classes]) for line in told],
        "plots": {k: svg and Markup(svg) for k, svg in svgs.items()},  # noqa: S704 (ours)
    }


def _heat(line: Line, kind: ClassFigures) -> tuple[str, float | None]:
    """What a cell of the heat table says, and how deep its colour is, in [0, 1]."""
    figure = line.of_class(kind.name, "capture_at_1")
    if figure is None or table.is_few(line, "capture_at_1"):
        return (table.NOTHING if figure is None else table.FEW), None
    return table.short(figure.value, 2), figure.value
