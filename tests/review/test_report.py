import json
import re
import time
from html import unescape
from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd
import pytest

from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, MissingData, OutputInUse
from inspect_ai.metrics import auroc
from inspect_ai.review import reading, report, scanned, words

RATE, SIDE = 0.05, 12
EVIL = "lot <script>alert('1')</script> & $\\frac{1}$"


def scores(n=200, lots=8, defect_share=0.2, seed=0):
    """Scores, verdicts and labels of n images; a lot's images stand together."""
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < defect_share
    score = (rng.normal(size=n) + 3 * bad).astype(np.float32)
    return pd.DataFrame(
        {
            "image_id": [f"{i:032x}" for i in range(n)],
            "image_path": [f"images/{i:05d}.png" for i in range(n)],
            "pred_score": score,
            "p_value": 1 / (1 + np.exp(2 * score.astype(float))),
            "pred_label": (score > 1.7).astype(int),
            "image_threshold": 1.7,
            "group": [f"lot{i * lots // n}" for i in range(n)],
            "split": "test",
            "gt_label": pd.array(bad.astype(int), "Int8"),
            "label": np.where(bad, np.where(np.arange(n) % 2, "scratch", "stain"), "good"),
            "mask_path": pd.array([pd.NA] * n, "string"),
            "tool": "tool-1",
        }
    )


def unlabelled(table):
    return table.assign(gt_label=pd.array([pd.NA] * len(table), "Int8"), label=None)


def write(folder, table, rejected=(), **run):
    """A scan folder; `rejected` is (path, reason) pairs."""
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    (folder / "maps").mkdir(exist_ok=True)
    half = len(table) // 2
    for number, part in enumerate([table.iloc[:half], table.iloc[half:]]):
        part.to_parquet(folder / f"scores/part-{number:05d}.parquet")
    lost = pd.DataFrame(list(rejected), columns=["image_path", "reason"]).assign(group="lot0")
    lost.to_parquet(folder / "rejected.parquet")
    good = np.random.default_rng(9).normal(size=300).astype(np.float32)
    pd.DataFrame({"image_id": "c", "group": "k", "pred_score": good, "map_max": good}).to_parquet(
        folder / "calibration.parquet"
    )
    layout = {"kind": "table", "mask": "mask_path"}
    spec = DataSpec(name="demo", root=folder, source="here", licence="none", layout=layout)
    fields = {
        "command": "scan",
        "state": "finished",
        "version": "0.1.0",
        "spec_name": "demo",
        "spec_hash": "5" * 64,
        "data_spec": spec.model_dump(mode="json"),
        "root": str(folder),
        "split": "test",
        "bundle": "bundle",
        "bundle_hash": "abcdef" * 8,
        "model": "vae",
        "rule": "reconstruction",
        "false_alarm_rate": RATE,
        "confidence": None,
        "image_threshold": 1.7,
        "pixel_threshold": 0.5,
        "promise": "At most 5 % of good images are flagged, on average.",
        "calibration_images": 300,
        "images": len(table),
        "flagged": int(table["pred_label"].sum()),
        "rejected": len(lost),
        "seconds": 90.0,
        "images_per_second": 2.2,
        "device": "CPU",
        "started_at": "2026-01-02T03:04:05+00:00",
        "finished_at": "2026-01-02T03:05:35+00:00",
        "notes": [],
    }
    (folder / "run.json").write_text(json.dumps(fields | run))
    return folder


def strip(folder, name, width=3 * SIDE, noisy=False):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256 if noisy else 2, (width // 3, width, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "maps" / f"{name}.png"), pixels)


class Page(HTMLParser):
    """Tags and visible text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(html)
        body = html[html.index("<body>") : html.index("<script>\ndocument")]
        self.text = " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action")]


def rendered(folder, **options):
    """The page and the numbers; JSON that is not strict is refused."""
    path = report.render(folder, **options)

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    numbers = json.loads((path.parent / "metrics.json").read_text(), parse_constant=refuse)
    return Page(path.read_text(encoding="utf-8")), numbers


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A scan with labels, masks, maps and pictures; each defect is a corner that the map sees."""
    folder, table = tmp_path_factory.mktemp("scan"), scores()
    write(folder, table)
    rng = np.random.default_rng(0)
    mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    mask[:8, :8] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    table["mask_path"] = pd.array([pd.NA] * len(table), "string")
    table.loc[table["gt_label"] == 1, "mask_path"] = "mask.png"
    for name, gt in zip(table["image_id"], table["gt_label"], strict=True):
        heat = rng.random((SIDE, SIDE)).astype(np.float32)
        heat[:4, :4] += 3 * gt
        cv2.imwrite(str(folder / "maps" / f"{name}.tiff"), heat)
        strip(folder, name)
    write(folder, table)
    return folder, table, *rendered(folder)


def test_the_headline_counts_and_the_promise_stand_first(labelled):
    _, table, page, numbers = labelled
    flagged = int(table["pred_label"].sum())
    headline = f"{flagged} of 200 images flagged ({words.share(flagged / 200)})."
    assert numbers["verdict"]["headline"] == headline
    assert " ".join(headline.split()) in page.text[:300]
    assert "At most 5 % of good images are flagged, on average." in page.text[:1000]


def test_observed_overkill_stands_against_the_promise(labelled):
    _, table, page, numbers = labelled
    good = table[table["gt_label"] == 0]
    assert numbers["overkill"]["rate"] == good["pred_label"].mean()
    low, high = numbers["overkill"]["interval"]
    assert low < numbers["overkill"]["rate"] < high
    assert numbers["verdict"]["standing"] == "as promised"
    assert f"Of {len(good)} images known to be good" in page.text


def test_alarms_that_stand_in_one_lot_leave_the_promise_in_doubt_not_broken(tmp_path):
    table = scores(n=400, lots=20, defect_share=0)
    flagged = (table["group"] == "lot7").astype(int)  # 20 of 400: the promise exactly
    together = write(tmp_path / "together", table.assign(pred_label=flagged))
    spread = write(tmp_path / "spread", table.assign(pred_label=np.arange(400) % 20 == 0))
    ends = [rendered(folder)[1]["overkill"]["interval"] for folder in (together, spread)]
    assert ends[0][1] > ends[1][1] + 0.05
    assert ends[0][0] < ends[1][0]


def test_quality_is_told_with_intervals_in_total_and_by_class(labelled):
    _, table, page, numbers = labelled
    total, *classes = numbers["quality"]["rows"]
    good, bad = (table["pred_score"][table["gt_label"] == gt] for gt in (0, 1))
    assert total["auroc"]["value"] == pytest.approx(auroc(good, bad))
    assert total["auroc"]["interval"][0] < total["auroc"]["value"] < total["auroc"]["interval"][1]
    assert [row["name"] for row in classes] == ["scratch", "stain"]
    assert sum(row["images"] for row in classes) == total["images"] == len(bad)
    missed = table[(table["gt_label"] == 1) & (table["pred_label"] == 0)]
    assert total["missed"] == sum(row["missed"] for row in classes) == len(missed)
    assert total["capture_at_0.01"] is None  # 160 good images bear no rate of 1 %
    assert "too few" in page.text


def test_aupro_is_told_where_masks_and_maps_exist(labelled):
    _, table, _, numbers = labelled
    assert numbers["localisation"]["defects"] == (table["gt_label"] == 1).sum()
    assert numbers["localisation"]["aupro"]["value"] > 0.9


def test_says_what_is_missing_where_masks_are_gone(labelled, tmp_path):
    folder, table, _, _ = labelled
    lost = write(tmp_path / "lost", table.assign(mask_path="gone.png"))
    for path in (folder / "maps").glob("*.tiff"):
        (lost / "maps" / path.name).write_bytes(path.read_bytes())
    page, numbers = rendered(lost)
    assert numbers["localisation"]["aupro"] is None
    assert "gone.png" in page.text


def test_flagged_images_come_oddest_first_with_their_pictures(labelled):
    _, table, page, numbers = labelled
    flagged = table[table["pred_label"] == 1].sort_values("p_value")
    assert [row["image_path"] for row in numbers["flagged"]["shown"]] == flagged[
        "image_path"
    ].tolist()
    assert page.tags.count("img") == len(flagged)
    places = [page.text.index(path) for path in flagged["image_path"]]
    assert places == sorted(places)


def test_nothing_is_fetched_and_no_file_is_left_beside_the_page(labelled):
    folder, _, page, _ = labelled
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not list(folder.glob(".*")) + list(folder.glob("*.part"))


def test_lots_are_told_worst_first_and_marked(tmp_path):
    table = unlabelled(scores(400, lots=8, defect_share=0))
    table["pred_label"] = ((table["group"] == "lot3") & (table.index % 2 == 0)).astype(int)
    page, numbers = rendered(write(tmp_path, table))
    worst = numbers["lots"]["rows"][0]
    assert (worst["name"], worst["images"], worst["flagged"]) == ("lot3", 50, 25)
    assert [row["mark"] for row in numbers["lots"]["rows"]][:2] == ["far above", ""]
    assert "Standing out by all flagged images, good or not: lot3 (25 of 50)." in page.text


LEVEL = {"images": 300, "image_threshold": 1.7, "pixel_threshold": 0.5, "promise": ""}


def over_lots(folder, table, units=(23,), unit="lot", **run):
    """A scan judged over lots: one level, or "all" (that judged nothing) and one for each."""
    names = ["all", *"abc"][1 * (len(units) > 1) :][: len(units)]
    levels = {name: LEVEL | {"units": n} for name, n in zip(names, units, strict=True)}
    levels |= {"all": LEVEL | {"units": sum(units)}}
    level = np.array(names)[np.arange(len(table)) % len(names)]
    at = 1.7 + 0.1 * (np.arange(len(table)) % len(names))
    table = table.assign(group_level=level, pixel_threshold=0.25, image_threshold=at)
    return write(folder, table, unit=unit, lots=sum(units), levels=levels, **run)


def test_p_values_of_a_calibration_over_lots_are_told_by_lots(tmp_path):
    table = scores().assign(p_value=1 / 24, q_value=0.4, q_value_lot=0.4)
    page, numbers = rendered(over_lots(tmp_path, table))
    assert numbers["reading"]["least_p_value"] == [1 / 24, 1 / 24]
    assert "The smallest that 23 lots can give is 0.042" in page.text
    assert "The share of lots, one good image drawn of each, at least as odd" in page.text
    assert "with 23 lots p cannot go below 0.042" in page.text
    assert "300 calibration images can give" not in page.text


def test_p_values_of_groups_are_told_as_a_range_of_the_groups_that_judged(tmp_path):
    page, numbers = rendered(over_lots(tmp_path, scores(), (77, 88, 86), confidence=0.95))
    assert numbers["reading"]["least_p_value"] == [1 / 89, 1 / 78]
    assert "The smallest that the 77 to 88 lots of a group can give is 0.011 to 0.013" in page.text
    assert "1.7 to 1.9, by group on the image score" in page.text
    assert numbers["trade"]["shipped"] is None  # there is not one
    assert page.tags.count("svg") == 3


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (
            {"pixel_rate": 0.0015},
            "of all good pixels in images of new lots at most 0.15 % is marked",
        ),
        ({}, "at most 5 % of good images have a pixel above it"),
        ({"unit": "lot_maximum"}, "in at most 5 % of lots any good image has a pixel above it"),
        ({"false_alarm_rate": 0.01}, "at most 4.17 % of good images have a pixel above it"),
    ],
)
def test_the_pixel_threshold_is_the_rows_own_and_its_promise_is_named(tmp_path, run, said):
    told = reading.numbers(scanned.read(over_lots(tmp_path, scores(), **run)))
    assert told["pixel_threshold"] == [0.25, 0.25]
    assert told["pixel_promise"].replace("\u202f", " ").startswith(said)


def test_a_promise_about_whole_lots_is_held_against_lots(tmp_path):
    table = scores(n=400, lots=40, defect_share=0)
    flagged = table.index.isin([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 390])  # all of a lot, one of another
    folder = over_lots(tmp_path / "a", table.assign(pred_label=flagged * 1), unit="lot_maximum")
    page, numbers = rendered(folder)
    assert (numbers["batch"]["units"], numbers["batch"]["units_flagged"]) == (40, 2)
    assert numbers["batch"]["expected_if_all_good"] == RATE * 40
    assert (numbers["overkill"]["rate"], numbers["overkill"]["standing"]) == (0.05, "as promised")
    assert (
        "Of 40 lots with images known to be good, 2 had one or more of these flagged" in page.text
    )
    assert {row["mark"] for row in numbers["lots"]["rows"]} == {""}
    assert "stands out" not in page.text
    assert "against the promise" not in page.text
    spread = unlabelled(table).assign(pred_label=(table.index % 40 == 0) * 1)  # one in ten lots
    page, numbers = rendered(over_lots(tmp_path / "b", spread, unit="lot_maximum"))
    assert numbers["verdict"]["standing"] == "more"
    assert "Of 40 lots, 10 have a flagged image. If all images were good" in page.text


@pytest.mark.parametrize(
    ("row", "run", "larger", "beyond"),
    [
        (0.2, {}, False, False),
        (0.2, {"confidence": 0.95}, True, False),
        (0.04, {"confidence": 0.95}, False, False),
        (0.2, {"false_alarm_rate": 0.001}, True, True),
    ],
)
def test_rows_that_seem_to_disagree_with_p_values_are_known(tmp_path, row, run, larger, beyond):
    table = scores().assign(p_value_conditional=row) if run else scores()
    told = reading.numbers(scanned.read(write(tmp_path, table, **run)))
    assert (told["larger_conditional"], told["beyond"]) == (larger, beyond)


def test_and_are_explained_on_the_page(tmp_path):
    table = scores().assign(p_value_conditional=0.2)
    folder = write(tmp_path, table, false_alarm_rate=0.001, pixel_rate=0.01)
    page, _ = rendered(folder)
    assert "p_value_conditional holds at all levels at once" in page.text
    assert "it was set by a fitted tail" in page.text
    assert "0.5 on the map: of all good pixels at most 1 % is marked" in page.text
    assert "about 0.1 % of good images above" in (tmp_path / "report.html").read_text()


def test_without_labels_the_count_is_held_against_what_good_images_do(tmp_path):
    table = unlabelled(scores(defect_share=0))
    few, many = (table.assign(pred_label=(table.index < n).astype(int)) for n in (10, 40))
    page, numbers = rendered(write(tmp_path / "few", few))
    assert numbers["verdict"]["standing"] == "as promised"
    assert "about 10 would be flagged, and seldom more than 16" in page.text
    assert (numbers["overkill"], numbers["quality"]) == (None, None)
    page, numbers = rendered(write(tmp_path / "many", many))
    assert numbers["verdict"]["standing"] == "more"
    assert "more than good images explain" in page.text


def test_labels_that_came_later_are_taken_from_a_table(tmp_path):
    table = scores()
    folder = write(tmp_path / "scan", unlabelled(table))
    table[["image_path", "label"]].to_csv(tmp_path / "labels.csv", index=False)
    _, numbers = rendered(folder, labels=tmp_path / "labels.csv")
    assert numbers["quality"]["bad_images"] == (table["gt_label"] == 1).sum()
    (tmp_path / "wrong.csv").write_text("file,class\na,b\n")
    with pytest.raises(MissingData, match="image_path and label"):
        report.render(folder, labels=tmp_path / "wrong.csv")


def test_says_first_that_a_detector_was_exported_by_force(tmp_path):
    doubts = ["It catches 0 % of planted defects & <b>more</b>."]
    page = report.render(write(tmp_path, scores(), doubts=doubts)).read_text(encoding="utf-8")
    head = page.split("</header>")[0]
    assert '<span class="chip alarm">exported by force</span>' in head
    assert "exported by force. It catches 0 % of planted defects &amp; &lt;b&gt;more" in head
    assert "by force" not in report.render(write(tmp_path, scores())).read_text(encoding="utf-8")


def test_says_plainly_when_a_detector_is_worse_than_chance(tmp_path):
    table = scores()
    table["pred_score"] *= -1
    page, numbers = rendered(write(tmp_path, table))
    assert numbers["quality"]["worse_than_chance"]
    assert "the detector is worse than chance" in page.text


def test_a_score_that_is_not_a_number_is_first_and_null_in_json(tmp_path):
    table = scores()
    table.loc[7, ["pred_score", "p_value", "pred_label"]] = [np.nan, 1e-9, 1]
    page, numbers = rendered(write(tmp_path, table))
    assert numbers["flagged"]["shown"][0]["image_path"] == "images/00007.png"
    assert numbers["flagged"]["shown"][0]["pred_score"] is None
    assert "score not a number" in page.text


@pytest.mark.parametrize("rows", [0, 200])
def test_a_scan_without_a_flagged_image_has_a_page(tmp_path, rows):
    table = unlabelled(scores().head(rows)).assign(pred_label=0)
    page, numbers = rendered(write(tmp_path, table))
    assert numbers["batch"]["flagged"] == 0
    assert "No image was flagged." in page.text
    assert f"0 of {rows} images flagged" in page.text


def test_rejected_files_stand_together_by_reason(tmp_path):
    lost = [(f"a/{i}.png", f"{i}.png: not a whole image ({i} bytes).") for i in range(70)]
    lost += [("b.png", "b.png: 0 bytes.")]
    page, numbers = rendered(write(tmp_path, scores().head(0), lost))
    assert [kind["files"] for kind in numbers["rejected"]] == [70, 1]
    assert len(numbers["rejected"][0]["named"]) == 50
    assert "70 × not a whole image (… bytes)." in page.text
    assert "and 20 more" in page.text


def test_names_with_markup_or_mathematics_in_them_stay_text(tmp_path):
    table = scores().assign(tool=EVIL, label=EVIL, image_path=[f"{EVIL}{i}" for i in range(200)])
    table["group"] = np.where(table["pred_label"] == 1, EVIL, "日本")
    folder = write(tmp_path, table, [(EVIL, EVIL)], notes=[EVIL], promise=EVIL, spec_name=EVIL)
    page, numbers = rendered(folder)
    assert page.tags.count("script") == 1
    assert page.text.count("alert('1')") > 10
    assert numbers["lots"]["rows"][0]["name"] == EVIL


@pytest.mark.parametrize(("lot", "by"), [(False, None), (True, "lot")])
def test_images_that_are_their_own_group_are_put_together_by_lot_if_there_is_one(tmp_path, lot, by):
    table = scores().assign(group=lambda t: t["image_path"])
    if lot:
        table["lot"] = ["A", "B"] * 100
    page, numbers = rendered(write(tmp_path, table))
    assert numbers["lots"]["by"] == by
    assert numbers["lots"]["count"] == (2 if lot else 0)
    assert ("nothing to compare" in page.text) == (not lot)


def test_dies_are_rolled_up_by_wafer(tmp_path):
    table = scores().assign(wafer=np.arange(200) // 50, die_x=np.arange(200) % 10)
    page, numbers = rendered(write(tmp_path, table.assign(die_y=np.arange(200) // 10 % 5)))
    assert sorted(row["name"] for row in numbers["wafers"]) == ["0", "1", "2", "3"]
    assert "The six worst wafers" in page.text


def test_an_unfinished_scan_and_tables_that_do_not_agree_are_said_on_the_page(tmp_path):
    page, _ = rendered(write(tmp_path / "a", scores(), state="unfinished", finished_at=None))
    assert "The scan has not finished." in page.text
    page, _ = rendered(write(tmp_path / "b", scores(), images=999))
    assert "run.json counts 999 images, the tables hold 200." in page.text


def test_refuses_a_folder_that_is_no_scan_and_says_what_to_do(tmp_path):
    with pytest.raises(MissingData, match=r"no run.json.*Pass the folder"):
        report.render(tmp_path)
    write(tmp_path, scores())
    for part in (tmp_path / "scores").iterdir():
        part.unlink()
    with pytest.raises(MissingData, match=r"stopped before its first part.*again"):
        report.render(tmp_path)
    for fields, advice in (
        ({}, "not of a scan"),
        ({"command": "export", "state": "finished"}, "is of 'export', not of a scan"),
        ({"command": "scan", "state": "unfinished"}, "hardly begun.*Start the same scan again"),
    ):
        (tmp_path / "run.json").write_text(json.dumps(fields))
        with pytest.raises(MissingData, match=advice):
            report.render(tmp_path)
    (tmp_path / "run.json").write_text('{"command": "scan", "spec_name": "demo"}')
    with pytest.raises(BadSettings, match=r"run\.json"):
        report.render(tmp_path)


def test_a_report_is_never_written_over_that_of_another_scan(tmp_path):
    first = write(tmp_path / "first", scores(), started_at="2026-01-01T00:00:00+00:00")
    other = write(tmp_path / "other", scores(seed=1), started_at="2026-01-02T00:00:00+00:00")
    page = report.render(first, tmp_path / "page").read_text()
    with pytest.raises(OutputInUse, match="not of this scan"):
        report.render(other, tmp_path / "page")
    assert (tmp_path / "page" / "report.html").read_text() == page
    report.render(first, tmp_path / "page")  # its own is renewed


def test_the_page_can_be_written_elsewhere_and_the_scan_is_left_alone(tmp_path):
    folder = write(tmp_path / "scan", scores())
    before = sorted(folder.rglob("*"))
    assert report.render(folder, tmp_path / "new" / "out") == tmp_path / "new/out/report.html"
    assert sorted(folder.rglob("*")) == before


def test_9000_flagged_of_15000_make_a_page_that_still_opens(tmp_path):
    table = unlabelled(scores(15_000, lots=600))
    table["pred_label"] = (np.arange(15_000) % 5 < 3).astype(int)
    folder = write(tmp_path, table)
    for name in table[table["pred_label"] == 1].nsmallest(60, "p_value")["image_id"]:
        strip(folder, name, width=1536, noisy=True)
    start = time.perf_counter()
    page, numbers = rendered(folder)
    assert time.perf_counter() - start < 30
    assert page.tags.count("img") == 60
    assert len(numbers["flagged"]["listed"]) == 8_940
    assert (folder / "report.html").stat().st_size < 8e6


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0187, "1.9 %"), (0.00034, "0.034 %"), (0, "0 %"), (1, "100 %"), (None, "–")],
)
def test_shares_are_spelled_with_a_thin_space_and_the_digits_that_count(value, text):
    assert words.share(value) == text.replace(" ", "\u202f")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "0.00001"), (0.123456, "0.123"), (1234.5, "1,234"), (float("nan"), "–"), (0.0, "0")],
)
def test_numbers_are_spelled_without_an_exponent(value, text):
    assert words.number(value) == text


def test_a_promised_rate_is_not_rounded():
    assert words.rate(0.0015) == "0.15\u202f%"
    assert words.rate(0.0417) == "4.17\u202f%"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_spelled_in_the_unit_a_person_would_use(seconds, text):
    assert words.span(seconds) == text
