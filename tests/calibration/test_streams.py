import dataclasses

import numpy as np
import pytest
from scipy.stats import kstest

from inspect_ai.calibration import drift, streams
from inspect_ai.calibration.streams import begun, cut, extended, time_of

GOOD = np.random.default_rng(0).normal(size=300)


def changing(n=600, at=300, shift=1.5, seed=1):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=at), rng.normal(shift, 1, n - at)])


def times(n):
    return np.datetime64("2026-01-01T00:00:00", "s") + np.arange(n) * np.timedelta64(60, "s")


def assert_same(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(a):
            assert_same(a, b)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("parts", [[300], [1, 2, 599], [0, 250, 301]])
def test_batches_of_any_size_give_the_same_answer_as_one(parts, monkeypatch):
    monkeypatch.setattr(streams, "BAG", 230)
    monkeypatch.setattr(streams, "POINTS", 16)
    scores = changing(shift=3)
    stream = whole = begun("a", GOOD, 0.05, 1000)
    for some, when in zip(np.split(scores, parts), np.split(times(600), parts), strict=True):
        stream = extended(stream, some, when)
    whole = extended(whole, scores, times(600))
    assert whole.alarm is not None
    assert whole.quick
    assert_same(stream, whole)


def test_an_alarm_is_for_ever_and_says_what_moved_and_since_when():
    stream = extended(begun("a", GOOD, 0.05, 1000), changing(), times(600))
    later = extended(stream, np.random.default_rng(2).normal(size=3000))
    assert later.alarm == stream.alarm
    assert stream.alarm.side == "up"
    assert 300 < stream.alarm.at < 400
    assert stream.alarm.since == pytest.approx(300, abs=30)
    assert stream.alarm.time == str(times(600)[stream.alarm.at - 1])
    assert later.peak >= -np.log(0.05)


def test_a_quick_alarm_is_counted_and_dated():
    stream = extended(begun("a", GOOD, 0.05, 1000), changing(n=400), times(400))
    assert stream.quick_alarms == len(stream.quick) >= 1
    assert stream.quick[0].at == pytest.approx(340, abs=40)
    assert time_of(stream, 1) == "2026-01-01T00:00:00"


def test_of_many_quick_alarms_the_latest_are_kept_and_all_are_counted():
    stream = extended(begun("a", GOOD, 0.05, 1000), np.full(200, np.inf))
    stream = extended(stream, -np.arange(5000.0))
    assert stream.quick_alarms > len(stream.quick) == streams.ALARMS


def test_two_streams_settle_ties_by_draws_of_their_own():
    one, other = (extended(begun(name, GOOD, 0.05, 1000), np.zeros(50)) for name in "ab")
    assert one.log_m != other.log_m


def test_a_full_bag_is_followed_by_an_empty_one_and_p_values_stay_uniform(monkeypatch):
    monkeypatch.setattr(streams, "BAG", 50)
    rng, p = np.random.default_rng(3), []
    for i in range(40):
        stream = extended(begun(f"{i}", rng.normal(size=20), 0.05, 1000), rng.normal(size=49))
        for score in rng.normal(size=60):
            total = stream.total
            stream = extended(stream, np.array([score]))
            p.append(np.exp(-(stream.total - total)[0]))
        assert len(stream.bag) == 109 - 100
    assert kstest(p, "uniform").pvalue > 0.001


def test_a_stream_without_calibration_is_compared_with_its_own_past():
    stream = extended(begun("a", np.empty(0), 0.05, 1000), changing(), times(600))
    assert stream.alarm.side == "up"
    assert stream.alarm.at > 300


def test_a_trace_stays_short_and_keeps_every_peak():
    stream = begun("a", GOOD, 0.05, 1000)
    for part in np.split(changing(5100, at=2000), 3):
        stream = extended(stream, part)
    assert len(stream.trace.log_m) <= streams.POINTS
    assert len(stream.trace.log_m) * stream.trace.stride >= stream.n
    assert stream.trace.log_m.max() * np.log(10) == pytest.approx(stream.peak, abs=1e-9)


def test_no_score_leaves_a_stream_as_it_is():
    stream = begun("a", GOOD, 0.05, 1000)
    assert extended(stream, np.empty(0)) is stream


@pytest.mark.parametrize("kind", ["continuous", "discrete", "constant"])
def test_ordinary_good_images_stay_exchangeable_whatever_the_ties(kind):
    rng, p = np.random.default_rng(5), []
    for i in range(400):
        draw = {"continuous": 10**9, "discrete": 3, "constant": 1}[kind]
        scores = rng.integers(0, draw, 100).astype(float)
        good, new = scores[:40], scores[40:]
        where, stays = cut(good, f"{i}")
        kept = where.keeps(new, rng.random(60))
        p.append(drift.ranked(np.sort(good[stays]), new[kept][:5], rng.random(5))[0])
        assert stays.sum() == 38
    first = np.concatenate(p)
    assert kstest(first, "uniform").pvalue > 0.001


def test_defects_do_not_alarm_among_ordinary_images_and_do_among_all():
    rng = np.random.default_rng(6)
    good, new = rng.normal(size=500), rng.normal(size=2000)
    new[rng.random(2000) < 0.05] += 8
    where, stays = cut(good, "a")
    ordinary = where.keeps(new, rng.random(2000))
    assert extended(begun("a", good[stays], 0.01, 1e6), new[ordinary]).alarm is None
    assert extended(begun("a", good, 0.01, 1e6), new).alarm is not None


def test_a_score_that_is_not_a_number_is_never_ordinary():
    where, _ = cut(GOOD, "a")
    assert not where.keeps(np.array([np.nan, np.inf]), np.zeros(2)).any()


def test_without_calibration_all_is_ordinary():
    where, stays = cut(np.empty(0), "a")
    assert where.keeps(np.array([-1.0, 1e30]), np.zeros(2)).all()
    assert len(stays) == 0
