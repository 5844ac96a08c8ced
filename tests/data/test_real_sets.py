"""The sets of data_specs/ that lie beside this checkout: known counts, no leak, nothing unread."""

from pathlib import Path

import pytest

from inspect_ai.data import manifest
from inspect_ai.data.specs import DataSpec

HOUSE = Path(__file__).parents[2]

# label -> images, from the SOURCE.md of each set
COUNTS = {
    "aws_cookies": {"broken": 19, "broken_nomask": 5, "good": 32},
    "deeppcb": {"mixed": 448, "good": 974},
    "elpv_solar_cells": {
        "defect_mono": 188,
        "defect_poly": 241,
        "likely_mono": 34,
        "likely_poly": 30,
        "possible_mono": 70,
        "possible_poly": 107,
        "good": 1056,
    },
    "hazelnut_toy": {"colour": 10, "good": 24},
    "kolektor_sdd": {"crack": 30, "good": 193},
    "magnetic_tile": {
        "blowhole": 69,
        "break": 51,
        "crack": 34,
        "fray": 19,
        "uneven": 59,
        "good": 666,
    },
    "wm811k": {
        "Center": 2488,
        "Donut": 311,
        "Edge-Loc": 2971,
        "Edge-Ring": 4957,
        "Loc": 1994,
        "Near-full": 77,
        "Random": 485,
        "Scratch": 598,
        "none": 14000,
    },
}
MASKED = {"aws_cookies": 19, "deeppcb": 448, "hazelnut_toy": 10, "kolektor_sdd": 30}
MASKED |= {"magnetic_tile": 232}
MIXED = {"Center+Edge-Loc+Scratch": 455, "Near-full": 43, "Random": 259, "none": 350}


@pytest.fixture(scope="module", params=sorted([*COUNTS, "mixedwm38"]))
def made(request):
    spec = DataSpec.from_toml(HOUSE / "data_specs" / f"{request.param}.toml")
    root = HOUSE / spec.root
    if not root.is_dir():
        pytest.skip(f"the data of {spec.name} are not beside this checkout")
    return manifest.make(spec.model_copy(update={"root": root}))


def test_labels_are_as_many_as_the_source_says(made):
    labels = made.table["label"].value_counts().to_dict()
    if made.spec.name == "mixedwm38":
        assert len(labels) == 38
        assert set(labels.values()) == {300, *MIXED.values()}
        assert {label: labels[label] for label in MIXED} == MIXED
    else:
        assert labels == COUNTS[made.spec.name]


def test_masks_are_as_many_as_the_source_says(made):
    assert made.table["mask_path"].notna().sum() == MASKED.get(made.spec.name, 0)


def test_every_image_reads_and_none_repeats(made):
    assert made.table["image_id"].notna().all()
    assert manifest.copies(made.table) == 0
    assert made.notes == ()


def test_nothing_leaks_and_all_splits_are_filled(made):
    assert (made.table.groupby("group")["split"].nunique() == 1).all()
    assert all(len(made.good(split)) for split in ("train", "calibrate", "test"))
