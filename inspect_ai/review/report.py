"""The page a reviewer opens, and its numbers as a file.

    <out>/report.html    one file: style, pictures and plots inside, nothing fetched
    <out>/metrics.json   every number of the page, strict JSON

Both appear whole or not at all. The order of the page is the order of a decision: how many
were flagged and is that more than promised; the oddest images; the lots that stand out; what
could not be read; where labels are known, how good the verdicts are; and what another threshold
would cost.
"""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import cv2
import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

import inspect_ai
from inspect_ai.errors import OutputInUse
from inspect_ai.review import figures, quality, reading, scanned, summary, trade, words
from inspect_ai.review.scanned import Scan
from inspect_ai.review.summary import Numbers

LISTED = 10_000  # flagged images named below the pictures
LOTS = 200  # lots in the table; the others are in metrics.json
WAFERS = 100
FACTS = 12  # source columns on a card
EMBEDDED = 60_000  # bytes; a larger picture is embedded as JPEG
WIDEST = 776  # pixels of a strip of three panels


def render(scan: Path, out: Path | None = None, labels: Path | None = None, most: int = 60) -> Path:
    """Writes report.html and metrics.json of a scan folder; returns the page's path.

    Args:
        scan: the folder that `inspect-ai scan` wrote; an unfinished one is said to be so.
        out: where to write; the scan folder itself by default.
        labels: CSV or parquet with the columns image_path and label, for labels that came
            after the scan; they replace those of the scan.
        most: how many flagged images get a picture; the others are listed.

    Raises:
        MissingData: `scan` is not the folder of a scan, or holds no scores yet.
        BadSettings: its run.json was not written by a scan.
        OutputInUse: `out` holds the report of another scan.
    """
    read = scanned.read(scan, labels)
    numbers = _numbers(read, most)
    page = _page(read, numbers)
    folder = out if out is not None else scan
    _check_free(folder, numbers)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "metrics.json", json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    _write(folder / "report.html", page)
    return folder / "report.html"


def _check_free(folder: Path, numbers: Numbers) -> None:
    """Refuses to write over the report of another scan."""
    path = folder / "metrics.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["run"] if path.is_file() else None
    except (ValueError, KeyError, TypeError):
        known = {}
    ours = numbers["run"]
    assert isinstance(ours, dict)
    if known is not None and known.get("started_at") != ours["started_at"]:
        raise OutputInUse(f"{path} is not of this scan. Pass another folder with --out, or none.")


def _numbers(scan: Scan, most: int) -> Numbers:
    """Everything the page says in numbers; plain values only, None where not known."""
    batch, overkill = summary.batch(scan), quality.overkill(scan)
    column, lots = summary.lots(scan)
    wafers = summary.wafers(scan)
    flagged = scan.flagged
    outside = summary.standouts(column if summary.by_image(scan) else None, lots)
    shown = _entries(flagged.head(most)), _entries(flagged.iloc[most : most + LISTED])
    numbers: Numbers = {
        "format": 1,
        "made_by": f"inspect_ai {inspect_ai.__version__}",
        "run": scan.run.model_dump(mode="json", exclude={"data_spec", "notes"}),
        "notes": summary.notes(scan),
        "verdict": words.verdict(scan.run, batch, overkill, outside),
        "batch": batch,
        "reading": reading.numbers(scan),
        "discoveries": summary.discoveries(scan),
        "levels": summary.levels(scan),
        "lots": {"by": column, "count": len(lots), "rows": summary.entries(lots)},
        "wafers": None if wafers is None else summary.entries(wafers),
        "flagged": {"shown": shown[0], "listed": shown[1]},
        "rejected": summary.reasons(scan.rejected),
        "overkill": overkill,
        "quality": quality.separation(scan),
        "localisation": quality.localisation(scan),
        "trade": trade.numbers(scan),
    }
    strict = _strict(numbers)
    assert isinstance(strict, dict)
    return strict


def _page(scan: Scan, numbers: Numbers) -> str:
    """The page as text."""
    column, lots = summary.lots(scan)
    promised = scan.run.false_alarm_rate if summary.by_image(scan) else None
    plots = {
        "histogram": figures.histogram(scan),
        "lots": figures.lots(lots, promised, column or "group"),
        "wafers": _wafer_plot(scan),
        "trade": trade.figure(scan),
    }
    template = _environment().get_template("report.html")
    return template.render(
        numbers,
        spec=scan.run.data_spec,
        lot_word=column or "group",
        by_image=summary.by_image(scan),
        plots={k: svg and Markup(svg) for k, svg in plots.items()},  # noqa: S704 (ours)
        cards=_cards(scan, numbers),
        most_lots=LOTS,
        most_wafers=WAFERS,
    )


def _environment() -> jinja2.Environment:
    """Templates beside this file; every value is escaped, an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": words.count,
        "share": words.share,
        "rate": words.rate,
        "number": words.number,
        "when": words.when,
        "span": words.span,
    }
    return environment


def _entries(flagged: pd.DataFrame) -> list[Mapping[str, object]]:
    columns = ["image_id", "image_path", "p_value", "q_value", "pred_score", "group", "label"]
    return summary.entries(flagged[[c for c in columns if c in flagged]])


def _cards(scan: Scan, numbers: Numbers) -> list[Numbers]:
    """The flagged images with a picture, oddest first."""
    shown = numbers["flagged"]
    assert isinstance(shown, dict)
    rows = summary.entries(scan.flagged.head(len(shown["shown"])))
    columns = scanned.source_columns(scan.scores)
    cards: list[Numbers] = []
    for row in rows:
        facts = [(name, row[name]) for name in columns if row[name] not in (None, "")]
        if "lot" not in columns and row["group"] != row["image_path"]:
            facts.insert(0, ("group", row["group"]))
        picture = _picture(scan.folder / "maps" / f"{Path(str(row['image_id'])).name}.png")
        cards.append({**row, "facts": facts[:FACTS], "picture": picture})
    return cards


def _picture(path: Path) -> str | None:
    """A strip as a data URI, as a smaller JPEG where the file is large; None without one."""
    if not path.is_file():
        return None
    data, kind = path.read_bytes(), "png"
    if len(data) > EMBEDDED:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            return None
        data, kind = _jpeg(np.asarray(pixels, np.uint8)), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """At most WIDEST pixels wide, and of the best quality that keeps the page small."""
    height, width = pixels.shape[:2]
    if width > WIDEST:
        size = WIDEST, max(1, round(height * WIDEST / width))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    data = b""
    for level in (85, 65, 45, 25):
        data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, level])[1].tobytes()
        if len(data) <= EMBEDDED:
            break
    return data


def _wafer_plot(scan: Scan) -> str | None:
    wafers = summary.wafers(scan)
    if wafers is None or wafers.empty:
        return None
    return figures.wafers(scan, wafers["name"].head(6).tolist(), summary.wafer_names(scan.scores))


def _strict(value: object) -> object:
    """Nested values as strict JSON holds them."""
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    return summary.plain(value)


def _write(path: Path, text: str) -> None:
    """Written beside its place and renamed, so that a reader never meets half a file."""
    part = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
