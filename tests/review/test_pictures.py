import cv2
import numpy as np
import pytest

from inspect_ai.data.specs import ImageRule
from inspect_ai.review.pictures import GAP, PANEL, sheet, strip

WIDE = 3 * PANEL + 2 * GAP


def picture(channels=1, depth=8, side=(32, 32)):
    """A random image, half grey expected, with one hot corner; and its rule."""
    rule = ImageRule(
        channels=channels, depth=depth, minimum=0, maximum=1.0 if depth == 32 else None
    )
    rng = np.random.default_rng(0)
    image = (rng.random((channels, *side)) * rule.largest).astype(rule.dtype)
    expected = np.full((channels, 16, 16), 0.5, np.float32)
    heat = np.zeros((16, 16), np.float32)
    heat[:4, :4] = 1
    return image, expected, heat, rule


def panels(strip):
    """The three panels of a strip."""
    step = (strip.shape[1] - 2 * GAP) // 3 + GAP
    return [strip[:, i * step : i * step + step - GAP] for i in range(3)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("depth", [8, 12, 16, 32])
def test_any_kind_of_picture_gives_three_panels_in_colour(channels, depth):
    image, expected, heat, rule = picture(channels, depth)
    found = strip(image, expected, heat, rule, 0.5)
    assert found.shape == (PANEL, WIDE, 3)
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("side", "rows", "columns"),
    [((100, 200), PANEL // 2, PANEL), ((1, 999), 1, PANEL), ((4, 1), PANEL, PANEL // 4)],
)
def test_panels_keep_the_shape_of_the_image(side, rows, columns):
    image, expected, heat, rule = picture(side=side)
    assert strip(image, expected, heat, rule, 0.5).shape == (rows, 3 * columns + 2 * GAP, 3)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_first_panel_shows_the_image_whatever_its_depth(depth):
    image, expected, heat, rule = picture(depth=depth, side=(PANEL, PANEL))
    shown = panels(strip(image, expected, heat, rule, 0.5))[0]
    assert np.abs(shown[..., 0] - image[0] / rule.largest * 255).max() <= 1


def test_colours_stay_in_opencvs_order():
    image, expected, heat, rule = picture(channels=3)
    image[:] = np.uint8([200, 100, 50])[:, None, None]
    shown = panels(strip(image, expected, heat, rule, 0.5))[0]
    assert (shown == [200, 100, 50]).all()


def test_the_second_panel_shows_what_was_expected():
    image, expected, heat, rule = picture()
    assert np.abs(panels(strip(image, expected, heat, rule, 0.5))[1].astype(int) - 127).max() <= 1


def test_what_is_odd_stands_out_and_the_rest_is_as_it_was():
    image, expected, heat, rule = picture()
    shown, _, odd = panels(strip(image, expected, heat, rule, 0.5))
    far = slice(PANEL // 2, None)
    assert (odd[far, far] == shown[far, far]).all()
    assert (odd[:32, :32] != shown[:32, :32]).any(axis=2).mean() > 0.9


def test_what_lies_above_the_threshold_is_outlined_and_nothing_else():
    image, expected, heat, rule = picture()
    heat *= 0
    line = np.uint8([208, 180, 0])
    below = strip(image, expected, heat, rule, 0.5)
    heat[4:8, 4:8] = 2
    above = strip(image, expected, heat, rule, 0.5)
    assert not (below == line).all(axis=2).any()
    assert (above == line).all(axis=2).any()


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1e-30])
def test_a_threshold_of_nothing_is_drawn_all_the_same(threshold):
    image, expected, heat, rule = picture()
    found = strip(image, expected, heat, rule, threshold)
    assert found.shape == (PANEL, WIDE, 3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("depth", [8, 32])
def test_heat_and_expectation_that_are_no_numbers_are_drawn(wrong, depth):
    image, expected, heat, rule = picture(depth=depth)
    heat[8:, 8:] = wrong
    expected[:, 8:, 8:] = wrong
    assert strip(image, expected, heat, rule, 0.5).shape == (PANEL, WIDE, 3)


def test_heat_that_is_not_a_number_has_the_colour_of_an_alarm():
    image, expected, heat, rule = picture()
    image[:] = 0
    heat[:] = np.nan
    odd = panels(strip(image, expected, heat, rule, 0.5))[2]
    heat[:] = 10.0
    alarm = panels(strip(image, expected, heat, rule, 0.5))[2]
    inside = slice(4, -4)  # the outline of an alarm lies along the border
    assert (odd[inside, inside] == alarm[inside, inside]).all()


def wafer(rows=20, columns=40):
    """A wafer map with a failing row on a padded canvas, and its expectation."""
    states = np.zeros((1, rows, columns), np.uint8)
    states[:, 2:-2, 2:-2] = 1
    states[:, 5, 2:-2] = 2
    expected = np.full((1, 64, 64), 0.1, np.float32)
    heat = np.zeros((64, 64), np.float32)
    heat[5, 2 : columns - 2] = 1
    return states, expected, heat, ImageRule(kind="wafer_map")


def test_a_wafer_map_is_drawn_die_by_die_without_its_canvas():
    found = strip(*wafer(), 0.5)
    assert found.shape == (PANEL // 2, WIDE, 3)
    shown = panels(found)[0]
    colours = {tuple(c) for c in shown.reshape(-1, 3).tolist()}
    assert len(colours) == 3  # paper, die, failing die


def test_paper_around_a_wafer_stays_white_in_every_panel():
    for panel in panels(strip(*wafer(), 0.5)):
        assert (panel[:8] == 255).all()


def test_a_wafer_map_with_an_expectation_that_is_no_number_is_drawn():
    states, expected, heat, rule = wafer()
    expected[:], heat[:] = np.nan, np.nan
    assert strip(states, expected, heat, rule, 0.5).shape == (PANEL // 2, WIDE, 3)


def test_a_sheet_holds_its_pictures_in_rows_and_columns(tmp_path):
    grey = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3, 1, 1, 1)
    sheet(np.broadcast_to(grey, (2, 3, 1, 4, 8)), tmp_path / "sheet.png")
    made = cv2.imread(str(tmp_path / "sheet.png"))
    assert made.shape == (2 * 48 + 6, 3 * 96 + 8, 3)  # small pictures are enlarged to be seen
    centres = made[26::50, 50::98, 0]
    assert centres[:2, :3].tolist() == [[0, 51, 102], [153, 204, 255]]
