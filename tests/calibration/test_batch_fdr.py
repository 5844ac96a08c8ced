import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, false_discovery_control

from inspect_ai.calibration.batch_fdr import by_lot, good_share, q_values
from inspect_ai.calibration.conformal import calibrate

BATCHES, LOTS = 500, 300
P_VALUES = arrays(
    np.float64,
    st.integers(1, 30),
    elements=st.one_of(st.floats(1e-12, 1), st.integers(1, 20).map(lambda k: k / 20)),
)
# p-values of n good scores, as counts: p = count / (n + 1)
COUNTED = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n + 1), min_size=1, max_size=30))
)
TYPED = st.integers(1, 99).map(lambda percent: f"0.{percent:02d}")  # q, as a user types it

DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "heavy tails": lambda rng, size: rng.standard_cauchy(size),
    "ties": lambda rng, size: rng.poisson(3.0, size),
    "one value": lambda rng, size: np.zeros(size),
}


def false_shares(draw, good, bad, n, q, storey):
    """Share of good images among the flagged, for each of many batches and calibrations."""
    rng = np.random.default_rng(7)
    shares = np.empty(BATCHES)
    for i in range(BATCHES):
        kept = calibrate(draw(rng, n).astype(np.float32), 0.5)
        scores = draw(rng, good + bad).astype(np.float32)
        scores[good:] += 6
        flagged = q_values(kept.p_value(scores), storey=storey, n=n) <= q
        shares[i] = flagged[:good].sum() / max(1, flagged.sum())
    return shares


@pytest.mark.parametrize("storey", [False, True])
@pytest.mark.parametrize("law", DRAWS)
def test_of_what_is_flagged_no_more_is_good_than_promised(law, storey):
    shares = false_shares(DRAWS[law], good=60, bad=40, n=299, q=0.2, storey=storey)
    assert shares.mean() <= 0.2 + 3.1 * shares.std() / np.sqrt(BATCHES)


@pytest.mark.parametrize("storey", [False, True])
@pytest.mark.parametrize("law", DRAWS)
def test_a_batch_without_defects_has_no_false_alarm_more_often_than_promised(law, storey):
    shares = false_shares(DRAWS[law], good=20, bad=0, n=299, q=0.2, storey=storey)
    assert shares.sum() <= binom.ppf(0.999, BATCHES, 0.2)


def test_the_correction_gives_back_what_defects_cost():
    """A batch of four fifths defects: plain, the false share is a fifth of what is allowed."""
    plain = false_shares(DRAWS["normal"], 20, 80, n=299, q=0.2, storey=False)
    corrected = false_shares(DRAWS["normal"], 20, 80, n=299, q=0.2, storey=True)
    assert plain.mean() < 0.08
    assert 0.1 < corrected.mean() <= 0.2 + 3.1 * corrected.std() / np.sqrt(BATCHES)


def lot_false_shares(rng, q, find):
    """Lots of 25 good images, alike by 0.8: how many have a false alarm."""
    alarms = np.empty(LOTS)
    for i in range(len(alarms)):
        kept = calibrate(rng.normal(size=999).astype(np.float32), 0.5)
        lot = np.sqrt(0.8) * rng.normal() + np.sqrt(0.2) * rng.normal(size=25)
        alarms[i] = (find(kept.p_value(lot.astype(np.float32))) <= q).any()
    return int(alarms.sum())


def test_within_a_lot_the_promise_holds_though_its_images_are_alike_and_the_correction_breaks_it():
    within = lot_false_shares(np.random.default_rng(1), 0.1, lambda p: by_lot(p, ["A"] * len(p)))
    corrected = lot_false_shares(np.random.default_rng(1), 0.1, lambda p: q_values(p, n=999))
    limit = binom.ppf(0.999, LOTS, 0.1)
    assert within <= limit < corrected


@given(P_VALUES)
@settings(max_examples=80, deadline=None)
def test_plain_q_values_are_scipys(p):
    theirs = false_discovery_control(p, method="bh")
    np.testing.assert_allclose(q_values(p, storey=False), theirs, rtol=1e-11)


def flagged_by_hand(counts, n, q, pi0, most=1):
    """Benjamini-Hochberg in exact fractions, straight from its definition."""
    m, p = len(counts), sorted(Fraction(c, n + 1) for c in counts)
    steps = [k for k in range(1, m + 1) if p[k - 1] <= most and p[k - 1] * pi0 * m <= q * k]
    last = p[max(steps) - 1] if steps else 0
    return [Fraction(c, n + 1) <= last for c in counts]


@given(COUNTED, TYPED)
@settings(max_examples=80, deadline=None)
def test_a_q_value_up_to_q_is_flagged_at_q_and_rounding_changes_none(drawn, typed):
    n, counts = drawn
    p = np.array(counts) / (n + 1)
    expected = flagged_by_hand(counts, n, Fraction(typed), 1)
    assert (q_values(p, storey=False) <= float(typed)).tolist() == expected


@given(COUNTED, TYPED, st.sampled_from([0.25, 0.5, 0.8]))
@settings(max_examples=80, deadline=None)
def test_with_the_correction_too(drawn, typed, level):
    n, counts = drawn
    top = Fraction(math.ceil(Fraction(str(level)) * (n + 1)), n + 1)
    if top == 1:
        return
    above = sum(Fraction(c, n + 1) >= top for c in counts)
    pi0 = Fraction(1 + above, len(counts)) / (1 - top)
    expected = flagged_by_hand(counts, n, Fraction(typed), pi0, most=top)
    p = np.array(counts) / (n + 1)
    assert (q_values(p, level=level, n=n) <= float(typed)).tolist() == expected


@given(P_VALUES, st.data())
@settings(max_examples=80, deadline=None)
def test_a_lot_is_judged_as_if_it_were_alone(p, data):
    lots = np.array(data.draw(st.lists(st.sampled_from("ABC"), min_size=len(p), max_size=len(p))))
    found = by_lot(p, list(lots))
    for lot in set(lots):
        assert (found[lots == lot] == q_values(p[lots == lot], storey=False)).all()


@given(P_VALUES, st.booleans())
@settings(max_examples=80, deadline=None)
def test_q_values_rise_with_p_and_lie_in_0_to_1(p, storey):
    q = q_values(p, storey=storey)[np.argsort(p, kind="stable")]
    assert (np.diff(q) >= 0).all()
    assert ((q > 0) & (q <= 1)).all()


@given(st.permutations(range(12)))
def test_the_order_of_images_does_not_matter(order):
    p = np.array([1, 1, 2, 3, 3, 5, 8, 20, 40, 60, 80, 99]) / 100
    assert (q_values(p[order]) == q_values(p)[order]).all()


def test_the_share_of_good_images_is_not_cut_at_1():
    p = np.array([0.01, 0.6, 0.7, 0.8, 0.9])
    assert good_share(p, n=99) == 2.0
    assert q_values(p, n=99).tolist() == [0.1, 1.0, 1.0, 1.0, 1.0]
    assert q_values(p, storey=False)[0] == 0.05


def test_the_level_is_moved_up_to_a_value_that_p_can_take():
    p = np.array([0.5, 0.6])
    assert good_share(p, n=9) == pytest.approx(3 / (2 * 0.5))
    assert good_share(p, n=4) == pytest.approx(2 / (2 * 0.4))
    assert good_share(p, n=np.array([9, 4])) == pytest.approx(2 / (2 * 0.4))


def test_what_looks_good_is_never_flagged_with_the_correction():
    assert q_values(np.array([0.5, 0.51, 0.51])).tolist()[1:] == [1.0, 1.0]


def test_an_empty_batch_has_no_q_values():
    nothing = np.empty(0)
    assert q_values(nothing).shape == q_values(nothing, storey=False).shape == (0,)
    assert by_lot(nothing, []).shape == (0,)


def test_an_image_alone_has_its_p_value():
    assert q_values(np.array([0.03]), storey=False).tolist() == [0.03]
    assert by_lot(np.array([0.03, 0.4]), ["A", "B"]).tolist() == [0.03, 0.4]


def test_images_without_a_lot_are_one_lot():
    p = np.array([0.01, 0.02, 0.03, 0.04])
    assert by_lot(p, ["A", None, "A", None]).tolist() == [0.02, 0.04, 0.03, 0.04]


@pytest.mark.parametrize("wrong", [0.0, -0.1, 1.1, np.nan])
def test_what_is_no_p_value_is_refused(wrong):
    with pytest.raises(ValueError, match=r"1 of 2 p-values are not in \(0, 1\]"):
        q_values(np.array([0.5, wrong]))


@pytest.mark.parametrize(("level", "n"), [(0.0, None), (1.0, None), (0.9, 4)])
def test_a_level_without_anything_above_it_is_refused(level, n):
    with pytest.raises(ValueError, match="level must be"):
        q_values(np.array([0.5]), level=level, n=n)
