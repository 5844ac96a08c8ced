import numpy as np
import pytest

from inspect_ai import parity
from inspect_ai.calibration.conformal import calibrate
from inspect_ai.data.specs import ImageRule
from inspect_ai.errors import ParityFailed
from inspect_ai.scores import Scores

GOOD = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 6)).astype(np.uint8)


def alone(*batches):
    """Batches for a detector that is told no condition."""
    return [(pixels, None) for pixels in batches]


def mean_score(pixels, condition=None):
    """A detector in three lines: the mean is the score, the picture the map."""
    maps = pixels[:, 0].astype(np.float32)
    return Scores(maps.mean(axis=(1, 2)), maps)


def changed(pred_score=lambda s: s, anomaly_map=lambda m: m):
    """The same detector, answering a little differently."""

    def score(pixels, condition=None):
        own = mean_score(pixels)
        return Scores(pred_score(own.pred_score), anomaly_map(own.anomaly_map))

    return score


def spoilt(array, value):
    array = array.copy()
    array.flat[0] = value
    return array


def judged(found):
    """The threshold of all images, on either side."""
    both = (calibrate(s, 0.1).threshold for s in (found.torch_scores, found.onnx_scores))
    return parity.Judged(np.ones(len(found.torch_scores), bool), *both)


def gate(theirs, ours=mean_score, edge=GOOD[:3], on_good=True):
    """Compares and checks as export does; the difference is met on good images or the edge."""
    found = parity.compare(alone(GOOD[:25], GOOD[25:]), ours, theirs if on_good else ours)
    at_edge = parity.compare(alone(edge), ours, ours if on_good else theirs)
    parity.check(found, at_edge, [judged(found)])
    return found


def test_equal_answers_pass_and_are_kept_in_order():
    found = gate(mean_score)
    assert (found.onnx_scores == mean_score(GOOD).pred_score).all()
    assert (found.noted["map_max"] == GOOD.max(axis=(1, 2, 3))).all()
    assert (found.score_difference, found.map_difference) == (0, 0)


def test_the_last_digits_may_differ():
    found = gate(changed(lambda s: s * np.float32(1 + 1e-6), lambda m: m + np.float32(0.25)))
    assert 0 < found.score_difference < 1e-3
    assert found.map_difference == 0.25


@pytest.mark.parametrize("on_good", [True, False])
def test_a_difference_above_the_tolerance_is_refused(on_good):
    spread = mean_score(GOOD).pred_score.std()
    shift = np.float32(0.5 * spread)
    edge = np.zeros((1, 1, 6, 6), np.uint8)  # far below the threshold either way
    with pytest.raises(ParityFailed, match=r"differ by .*allowed is .*Report this graph"):
        gate(changed(lambda s: s + shift), edge=edge, on_good=on_good)


def test_the_tolerance_follows_the_spread_of_the_good_scores():
    shift = 0.5 * parity.TOLERANCE * mean_score(GOOD).pred_score.std()
    gate(changed(lambda s: s + np.float32(shift)))
    with pytest.raises(ParityFailed, match="calibration images differ by"):
        gate(changed(lambda s: s + np.float32(3 * shift)))


ORDER = np.argsort(mean_score(GOOD).pred_score)  # with 40 images at 0.1, the 4th from the top
THRESHOLD = mean_score(GOOD).pred_score[ORDER[-4]]


def test_a_flipped_verdict_on_a_calibration_image_is_refused_however_small_the_difference():
    """Two images next to each other in score change places about the threshold."""
    third, above = ORDER[-3], np.nextafter(THRESHOLD, np.float32(1e9))
    at_third = mean_score(GOOD).pred_score[third]
    ours = changed(lambda s: np.where(s == at_third, THRESHOLD, s))
    theirs = changed(lambda s: np.where(s == at_third, above, s))
    with pytest.raises(ParityFailed, match="1 verdicts on calibration images differ"):
        gate(theirs, ours=ours)


def test_a_flipped_verdict_on_an_edge_case_is_refused():
    spread = mean_score(GOOD).pred_score.std()
    step = np.float32(2 * parity.TOLERANCE * spread)
    nudged = changed(lambda s: np.where(s == THRESHOLD, s + step, s))
    with pytest.raises(ParityFailed, match="1 verdicts on edge cases differ"):
        gate(nudged, edge=GOOD[ORDER[-4:-3]], on_good=False)


def test_the_image_that_sets_the_threshold_may_stand_among_the_edge_cases():
    """In a batch of another size its score differs in the last digit: a tie, no other verdict."""
    above = np.nextafter(THRESHOLD, np.float32(1e9))
    nudged = changed(lambda s: np.where(s == THRESHOLD, above, s))
    gate(nudged, edge=GOOD[ORDER[-4:-3]], on_good=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_on_one_side_alone_is_refused(value):
    with pytest.raises(ParityFailed, match="Use another rule or model"):
        gate(changed(lambda s: spoilt(s, value)), on_good=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_number_on_either_side_is_refused(value):
    """Both sides agree, yet no score is a number: the bundle would flag such an image for ever."""
    broken = changed(lambda s: spoilt(s, value))
    at_edge = parity.compare(alone(GOOD[:3]), broken, broken)
    found = parity.compare(alone(GOOD), mean_score, mean_score)
    with pytest.raises(ParityFailed, match="edge cases is not a finite number"):
        parity.check(found, at_edge, [judged(found)])


@pytest.mark.parametrize("on_good", [True, False])
def test_a_map_that_is_not_finite_is_refused(on_good):
    with pytest.raises(ParityFailed, match="not a finite number"):
        gate(changed(anomaly_map=lambda m: spoilt(m, np.nan)), on_good=on_good)


def test_good_scores_without_spread_allow_no_difference():
    flat = changed(np.zeros_like)
    gate(flat, ours=flat, edge=GOOD[:1])
    found = parity.compare(alone(GOOD), flat, changed(lambda s: 0 * s - np.float32(1e-6)))
    with pytest.raises(ParityFailed, match=r"allowed is 0\. "):
        parity.check(found, found, [judged(found)])


RULES = {
    "wafer map": ImageRule(kind="wafer_map"),
    "8 bit": ImageRule(),
    "12 bit": ImageRule(depth=12),
    "16 bit": ImageRule(depth=16, minimum=100, maximum=60000),
    "float": ImageRule(depth=32, minimum=-1.0, maximum=2.5),
    "float above 0": ImageRule(depth=32, minimum=5.0, maximum=6.0),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_edge_cases_keep_the_images_type_and_range(rule):
    rng = np.random.default_rng(0)
    good = (rule.minimum + (rule.largest - rule.minimum) * rng.random((3, 1, 6, 6))).astype(
        rule.dtype
    )
    cases = parity.edge_cases(rule, good)
    assert list(cases) == ["constant", "saturated", "batch of 1", "odd batch", "other size"]
    for pixels in cases.values():
        assert pixels.dtype == rule.dtype
        assert pixels.min() >= rule.minimum
        assert pixels.max() <= rule.largest
    assert [len(pixels) for pixels in cases.values()] == [2, 2, 1, 3, 3]
    assert cases["other size"].shape[2:] == (15, 11)


def test_edge_cases_of_pictures_are_black_and_white():
    cases = parity.edge_cases(RULES["12 bit"], np.full((3, 1, 2, 2), 7, np.uint16))
    assert (cases["constant"] == 0).all()
    assert (cases["saturated"] == 4095).all()


def test_edge_cases_of_maps_pass_everywhere_and_fail_everywhere():
    good = np.array([[0, 1], [2, 1]], np.uint8)[None, None].repeat(3, axis=0)
    cases = parity.edge_cases(RULES["wafer map"], good)
    assert cases["constant"][0, 0].tolist() == [[0, 1], [1, 1]]
    assert cases["saturated"][0, 0].tolist() == [[0, 2], [2, 2]]
