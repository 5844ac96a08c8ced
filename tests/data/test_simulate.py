import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage

from inspect_ai.data import simulate
from inspect_ai.data.simulate_defects import DEFECTS
from inspect_ai.data.simulate_dies import PRODUCTS, DieSettings, dies
from inspect_ai.data.simulate_maps import MapSettings, planted, wafer_maps
from inspect_ai.data.simulate_patterns import MIXTURES, PATTERNS
from inspect_ai.errors import NoSpace, OutputInUse

FEW_MAPS = MapSettings(lots=3, wafers_per_lot=4, defect_share=0.5, seed=1)
FEW_DIES = DieSettings(lots=2, wafers_per_lot=2, dies_per_wafer=3, side=48, defect_share=0.5)


@pytest.fixture(scope="module")
def wafers():
    return wafer_maps(MapSettings(lots=40, defect_share=0.9, mixture_share=0.4, seed=7))


@pytest.fixture(scope="module")
def bad_dies():
    settings = DieSettings(lots=6, products=6, wafers_per_lot=2, side=64, defect_share=1.0)
    return list(dies(settings))


def fail_rate(wafers, label):
    chosen = wafers.maps[wafers.labels == label]
    return (chosen == 2).sum((1, 2)) / (chosen > 0).sum((1, 2))


def distance_from_centre(wafers, label):
    """Mean distance of killed dies from the centre of their wafer; 1 at the rim."""
    n, y, x = np.nonzero(wafers.masks * (wafers.labels == label)[:, None, None])
    rows, cols = wafers.shapes[n].T
    return np.hypot((2 * y + 1) / rows - 1, (2 * x + 1) / cols - 1).mean()


def same(one, other):
    return all(np.array_equal(getattr(one, key), getattr(other, key)) for key in ("image", "mask"))


# maps


def test_equal_settings_give_equal_maps():
    one, other = wafer_maps(FEW_MAPS), wafer_maps(FEW_MAPS)
    for name in ("maps", "shapes", "labels", "masks"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    pd.testing.assert_frame_equal(one.columns, other.columns)


def test_another_seed_gives_other_maps():
    other = wafer_maps(FEW_MAPS.model_copy(update={"seed": 2}))
    assert not np.array_equal(wafer_maps(FEW_MAPS).maps, other.maps)


def test_more_lots_leave_the_first_wafers_as_they_were():
    few, more = wafer_maps(FEW_MAPS), wafer_maps(FEW_MAPS.model_copy(update={"lots": 5}))
    assert np.array_equal(few.maps, more.maps[:12])
    assert np.array_equal(few.masks, more.masks[:12])
    assert (few.labels == more.labels[:12]).all()


def test_a_larger_share_of_patterns_leaves_the_other_fails_as_they_were():
    clean, spoilt = (
        wafer_maps(FEW_MAPS.model_copy(update={"defect_share": share})) for share in (0, 0.9)
    )
    alone = spoilt.masks == 0
    assert np.array_equal(clean.maps[alone], spoilt.maps[alone])


def test_a_map_is_a_disc_in_the_top_left_corner_of_the_canvas(wafers):
    for wafer, (rows, cols) in zip(wafers.maps, wafers.shapes, strict=True):
        assert not wafer[rows:].any()
        assert not wafer[:, cols:].any()
        assert wafer[:rows].any(axis=1).all()
        assert wafer[:, :cols].any(axis=0).all()
        assert (wafer > 0).sum() == pytest.approx(np.pi / 4 * rows * cols, rel=0.06)


def test_every_die_of_the_mask_fails_and_normals_have_none(wafers):
    assert (wafers.maps[wafers.masks == 1] == 2).all()
    assert not wafers.masks[wafers.labels == "none"].any()
    assert (wafers.masks[wafers.labels != "none"].sum((1, 2)) >= 4).all()


def test_all_eight_patterns_and_all_pairs_occur(wafers):
    assert set(wafers.labels) == {"none", *PATTERNS, *MIXTURES}


def test_the_share_of_patterned_wafers_is_the_one_asked_for():
    made = wafer_maps(MapSettings(lots=40, defect_share=0.2))
    assert (made.labels != "none").mean() == pytest.approx(0.2, abs=0.04)


def test_normal_wafers_fail_about_as_often_as_real_ones():
    made = wafer_maps(MapSettings(lots=60, defect_share=0))
    low, middle, high = np.quantile(fail_rate(made, "none"), [0.05, 0.5, 0.95])
    assert 0.015 < low < middle < high < 0.3
    assert middle == pytest.approx(0.09, abs=0.025)


def test_near_full_fails_nearly_everywhere_and_random_about_half(wafers):
    assert fail_rate(wafers, "Near-full").mean() > 0.75
    assert fail_rate(wafers, "Random").mean() == pytest.approx(0.5, abs=0.1)


def test_patterns_lie_where_their_names_say(wafers):
    order = ("Center", "Donut", "Loc", "Edge-Loc", "Edge-Ring")
    distances = [distance_from_centre(wafers, name) for name in order]
    assert distances == sorted(distances)


def test_a_scratch_is_thin(wafers):
    for mask in wafers.masks[wafers.labels == "Scratch"]:
        assert not ndimage.binary_erosion(mask, np.ones((4, 4))).any()


def test_wafers_of_a_lot_share_product_and_tool_and_follow_each_other(wafers):
    for _, lot in wafers.columns.groupby("lot"):
        assert lot["product"].nunique() == lot["tool"].nunique() == 1
        assert list(lot["wafer"]) == list(range(1, 26))
        assert pd.to_datetime(lot["taken_at"]).is_monotonic_increasing


@pytest.mark.parametrize("sizes", [{"smallest": 40, "largest": 30}, {"largest": 65}])
def test_refuses_wafers_that_do_not_fit_the_canvas(sizes):
    with pytest.raises(ValidationError, match="'smallest' <= 'largest' <= 'canvas'"):
        MapSettings(**sizes)


# dies


def test_equal_settings_give_equal_dies():
    assert all(map(same, dies(FEW_DIES), dies(FEW_DIES)))


def test_more_lots_leave_the_first_dies_as_they_were():
    more = FEW_DIES.model_copy(update={"lots": 3})
    assert all(same(*pair) for pair in zip(dies(FEW_DIES), dies(more), strict=False))


@pytest.mark.parametrize("side", [32, 45, 128])
def test_a_defect_has_a_mask_at_any_size_and_a_good_die_has_none(side):
    made = list(
        dies(DieSettings(lots=6, products=6, side=side, wafers_per_lot=1, defect_share=0.7))
    )
    assert all(die.image.shape == die.mask.shape == (side, side) for die in made)
    assert all(die.mask.any() == (die.label != "good") for die in made)
    assert all(set(np.unique(die.mask)) <= {0, 255} for die in made)


def test_every_kind_of_defect_occurs_and_only_where_it_can(bad_dies):
    kinds = {product.name: product.kinds for product in PRODUCTS}
    assert {die.label for die in bad_dies} == set(DEFECTS)
    assert all(die.label in kinds[die.product] for die in bad_dies)


@pytest.mark.parametrize(("depth", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_grey_levels_use_most_of_the_range(depth, dtype):
    images = np.stack([die.image for die in dies(FEW_DIES.model_copy(update={"depth": depth}))])
    low, high = np.quantile(images, [0.001, 0.999]) / (2**depth - 1)
    assert images.dtype == dtype
    assert low < 0.2
    assert high > 0.8


def test_a_defect_changes_its_die_inside_the_mask_and_nowhere_else():
    clean = DieSettings(lots=6, products=6, wafers_per_lot=1, side=64, defect_share=0)
    spoilt = clean.model_copy(update={"defect_share": 1.0})
    inside, outside = [], []
    for good, bad in zip(dies(clean), dies(spoilt), strict=True):
        change = bad.image.astype(float) - good.image  # noise differs too, about a mean of 0
        inside.append(abs(cv2.blur(change, (3, 3))[bad.mask > 0]).mean())
        outside.append(abs(change[bad.mask == 0].mean()))
    assert np.median(inside) > 25
    assert max(outside) < 3


def test_a_larger_share_of_defects_leaves_the_good_dies_as_they_were():
    fewer = dies(FEW_DIES.model_copy(update={"defect_share": 0.1}))
    pairs = [pair for pair in zip(fewer, dies(FEW_DIES), strict=True) if pair[1].label == "good"]
    assert pairs
    assert all(same(*pair) for pair in pairs)


def test_a_defect_covers_less_than_half_of_the_die(bad_dies):
    assert max((die.mask > 0).mean() for die in bad_dies) < 0.5


def test_dies_of_a_wafer_stand_at_different_places(bad_dies):
    places = {(die.lot, die.wafer, die.die_x, die.die_y) for die in bad_dies}
    assert len(places) == len(bad_dies)


# folders


def test_maps_npz_reads_without_pickle_and_holds_the_maps(tmp_path):
    root = simulate.write(FEW_MAPS, tmp_path / "deep" / "maps")
    made = wafer_maps(FEW_MAPS)
    with np.load(root / "maps.npz", allow_pickle=False) as file:
        assert np.array_equal(file["maps"], made.maps)
        assert np.array_equal(file["masks"], made.masks)
        for name in ("lot", "wafer", "product", "layer", "tool", "taken_at"):
            assert list(file[name]) == list(made.columns[name])


def test_manifest_lists_every_image_and_a_mask_for_each_defect(tmp_path):
    root = simulate.write(FEW_DIES, tmp_path / "dies")
    manifest = pd.read_csv(root / "manifest.csv", keep_default_na=False)
    columns = "path,label,mask,lot,wafer,die_x,die_y,product,layer,tool,taken_at"
    assert ",".join(manifest.columns) == columns
    assert sorted(manifest["path"]) == sorted(f"images/{p.name}" for p in root.glob("images/*"))
    assert ((manifest["mask"] == "") == (manifest["label"] == "good")).all()
    assert all((root / mask).exists() for mask in manifest["mask"] if mask)


def test_png_files_give_back_the_pixels_of_16_bit_dies(tmp_path):
    settings = FEW_DIES.model_copy(update={"depth": 16})
    root = simulate.write(settings, tmp_path / "dies")
    paths = pd.read_csv(root / "manifest.csv")["path"]
    for path, die in zip(paths, dies(settings), strict=True):
        assert np.array_equal(cv2.imread(str(root / path), cv2.IMREAD_UNCHANGED), die.image)


@pytest.mark.parametrize("settings", [FEW_MAPS, FEW_DIES])
def test_simulate_json_is_enough_to_simulate_again(tmp_path, settings):
    root = simulate.write(settings, tmp_path / "data")
    note = json.loads((root / "simulate.json").read_text())
    again = TypeAdapter(simulate.SimulateSettings).validate_python(note["settings"])
    assert again == settings


@pytest.mark.parametrize("settings", [FEW_MAPS, FEW_DIES])
def test_progress_ends_with_everything_done(tmp_path, settings):
    calls = []
    simulate.write(settings, tmp_path / "data", lambda *call: calls.append(call))
    assert calls[-1] == (12, 12)


def test_an_empty_folder_is_filled_and_a_used_one_refused(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    simulate.write(FEW_MAPS, root)
    before = (root / "maps.npz").read_bytes()
    with pytest.raises(OutputInUse, match=r"not an empty folder.*Pass another path"):
        simulate.write(FEW_MAPS, root)
    assert (root / "maps.npz").read_bytes() == before


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(OutputInUse):
        simulate.write(FEW_MAPS, tmp_path / "data")


@pytest.mark.parametrize(
    ("error", "seen"), [(OSError(28, "full"), NoSpace), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch, error, seen):
    def fail(*_):
        raise error

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(seen):
        simulate.write(FEW_DIES, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_a_pattern_is_planted_on_the_dies_of_a_map_wherever_they_lie():
    wafer = np.zeros((40, 44), np.uint8)
    y, x = np.mgrid[-12:13, -12:13]
    wafer[5:30, 9:34] = y**2 + x**2 <= 150
    made = planted(np.random.default_rng(0), wafer, "Edge-Ring")
    assert ((made > 0) == (wafer > 0)).all()
    far = np.hypot(*np.nonzero(made == 2) - np.array([[17], [21]]))
    assert len(far) > 20
    assert far.min() > 8
    assert (wafer <= 1).all()  # the map that was given stays


def test_planting_refuses_a_map_without_dies_and_an_unknown_pattern():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="without dies"):
        planted(rng, np.zeros((4, 4), np.uint8), "Loc")
    with pytest.raises(ValueError, match="no pattern Lok; there are Center"):
        planted(rng, np.ones((4, 4), np.uint8), "Lok")
