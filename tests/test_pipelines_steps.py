"""Accuracy against steps, on a small diffusion model of simulated dies."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread

from inspect_ai import train
from inspect_ai.recipe import Recipe
from inspect_ai.tracking import Nothing
from inspect_ai.training.detector import Single
from pipelines import steps
from pipelines.points import Point, Way, completed, knee, picture, table

NET = {"network": "dit", "width": 8, "depth": 1, "patch": 8}
RUN = {
    "grid": [16, 16],
    "false_alarm_rate": 0.05,
    "model": {
        "name": "diffusion",
        "net": NET,
        "steps": 40,
        "sampling": 2,
        "levels": 2,
        "start": 0.5,
        "calls": 3,
    },
    "score": {"rule": "l2"},
    "budget": {"steps": 10, "batch_size": 16},
}
WAY = Way("made", {"rule": "l2"}, "levels", (1, 2, 3))


@pytest.fixture(scope="module")
def checkpoint(dies, tmp_path_factory):
    made = Recipe.checked(RUN | {"data_spec": dies.spec}, "a test")
    folder = tmp_path_factory.mktemp("steps") / "few_dies_diffusion" / "checkpoint"
    return train.train(made, dies.manifest(), folder, Nothing())


@pytest.fixture(scope="module")
def trained(checkpoint):
    return train.load(checkpoint)


def test_a_checkpoint_becomes_a_table_and_a_picture(checkpoint, tmp_path, capsys):
    def asked(trained):
        (partial,) = (way for way in steps.ways(trained) if way.setting == "calls")
        assert partial.counts == (1, 2, 3, 5, 10, 25, 50)
        return [replace(partial, counts=(2, 12, 50))]

    steps.main([checkpoint], False, tmp_path, asked)
    said = capsys.readouterr()
    text = (tmp_path / "steps_few_dies_diffusion.md").read_text()
    assert said.out.startswith(text)
    assert "left out: l2 on partial redraw, 50" in said.err
    exported, drawn_out = (
        [cell.strip() for cell in line.split("|")[2:4]] for line in text.splitlines()[8:10]
    )
    assert (exported[0], drawn_out[0]) == ("2", "12")
    rate = float(exported[1].replace(",", ""))
    assert drawn_out[1].startswith("~")
    assert float(drawn_out[1][1:].replace(",", "")) == pytest.approx(rate * 2 / 12, rel=0.01)
    assert imread(tmp_path / "steps_few_dies_diffusion.png").shape[1] == 900


@pytest.mark.parametrize(
    ("setting", "count", "calls"),
    [
        ("denoising error", 8, 8),
        ("l2 on one-step redraw", 4, 4),
        ("l2 on partial redraw", 5, 5),
        ("score norm", 1, 2),
        ("inversion", 3, 4),
        ("diffusion time", 1, 1),
        ("bound", 5, 6),
    ],
)
def test_calls_are_those_that_an_image_costs(trained, setting, count, calls):
    (way,) = (way for way in steps.ways(trained) if way.name == setting)
    (look,) = steps._looks(trained, {way: count}).values()
    detector = Single(look.through.preprocess, look.through.model, look.rule).eval()
    assert steps.network_calls(detector) == calls


def test_other_ways_have_the_weights_that_were_trained(trained):
    for way in steps.ways(trained):
        (look,) = steps._looks(trained, {way: way.counts[0]}).values()
        mine = look.through.model.state_dict()
        for name, tensor in trained.detector.model.state_dict().items():
            assert torch.equal(mine[name], tensor)


def test_the_runs_own_point_is_among_the_ways_once(trained):
    made = trained.recipe
    own = [(w.name, k) for w in steps.ways(trained) for k in w.counts if w.ships(made, k)]
    assert own == [("l2 on one-step redraw", 2)]


def test_a_score_that_is_none_of_the_ways_has_a_row_of_its_own(trained):
    made = trained.recipe.model_copy(
        update={"model": trained.recipe.model | {"draws": 2}},
    )
    found = steps.ways(replace(trained, recipe=made))
    own = [(w.name, k) for w in found for k in w.counts if w.ships(made, k)]
    assert own == [("as it ships", 2)]


def test_few_images_are_drawn_from_all_batches_with_their_conditions():
    numbers = np.arange(300).reshape(3, 100)
    batches = [(part[:, None, None, None], part) for part in numbers]
    found = steps.few(batches, 90)
    assert all(len(pixels) <= steps.PIECE for pixels, _ in found)
    told = np.concatenate([places for _, places in found])
    assert np.array_equal(np.concatenate([pixels for pixels, _ in found])[:, 0, 0, 0], told)
    assert len(told) == 90
    assert (np.diff(told) > 0).all()
    assert {n // 100 for n in told} == {0, 1, 2}
    assert sum(len(pixels) for pixels, _ in steps.few(batches, 1000)) == 300


def point(capture, rate, way=WAY, calls=1, ships=False):
    return Point(way, calls, ships, calls, 0.9, (capture, 0.99), rate)


def test_the_knee_is_the_quickest_point_near_the_best():
    points = [point(0.80, 900), point(0.895, 300), point(0.90, 100), point(0.89, 200)]
    assert knee(points) == points[1]
    assert knee(points, at=1) == points[0]
    assert knee(points[:1]) == points[0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1e5)), min_size=1, max_size=9))
def test_no_quicker_point_is_as_good_as_the_knee(pairs):
    points = [point(*pair) for pair in pairs]
    chosen = knee(points)
    best = max(capture for capture, _ in pairs)
    assert chosen.captures[0] >= best - 0.011
    assert all(p.captures[0] < best - 0.009 for p in points if p.rate > chosen.rate)


def test_a_rate_that_was_not_measured_follows_from_the_calls():
    points = [point(0.9, 0.0, calls=50), point(0.8, 100.0, calls=5), point(0.7, 300.0)]
    found = completed(points)
    assert [p.calls for p in found] == [1, 5, 50]
    assert [p.rate for p in found] == [300, 100, 10]
    assert [p.exact for p in found] == [True, True, False]


def test_the_table_names_the_knees_and_the_runs_own_point():
    other = Way("other", {"rule": "l2"}, "levels", (1,))
    points = [
        *(point(0.5, 900), point(0.92, 200, calls=4, ships=True), point(0.925, 20, calls=50)),
        point(0.6, 1000, other),
    ]
    text = table("head", points, 0)
    assert "| made | 4 | 200 | 0.920 | 0.900 | 0.925 (50 calls) |" in text
    assert "| other | 1 | 1,000 | 0.600 | 0.900 | 0.600 (1 call) |" in text
    assert "| made | 4 | 200 | 0.900 | 0.920 | 0.990 | knee, the run's own |" in text
    assert "The knee of all: made, 4 calls, 200 images/s" in text
    assert "which is the knee of all." in text
    assert "~" not in text
    better = table("head", [*points, point(0.99, 5000, other)], 0)
    assert "which is the knee of its score." in better
    worse = table("head", [*points, point(0.92, 300, calls=3)], 0)
    assert "which is no knee." in worse


def test_the_picture_has_a_line_a_score_and_a_number_a_point():
    points = [point(0.5, 900), point(0.92, 200, calls=4, ships=True), point(1.0, 20, calls=50)]
    (axes,) = picture(points, 0).axes
    assert [text.get_text() for text in axes.texts] == ["1", "4", "50"]
    assert axes.lines[0].get_label() == "made"
    assert axes.get_ylabel() == "capture at 1 % overkill"


def test_a_checkpoint_of_another_model_is_refused(dies, tmp_path):
    with pytest.raises(SystemExit, match="is no diffusion model"):
        steps.main([dies.built / "checkpoint"], False, tmp_path)
