import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import logistic

from inspect_ai.training import outputs
from inspect_ai.training.outputs import Binary, Levels, States

MODERATE = settings(max_examples=60, deadline=None, derandomize=True)
KINDS = [Binary(), States(), Levels(2, 1), Levels(7, 3), Levels(256, 5)]


def params(kind, scale=1.0, cells=(3, 4)):
    return scale * torch.randn(2, kind.size, *cells, generator=torch.Generator().manual_seed(0))


def pictures(levels):
    """(len(levels), 2, 1, 1) covered images."""
    x = torch.tensor(levels).reshape(-1, 1, 1, 1)
    return torch.cat([x, torch.ones_like(x)], 1)


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=6, max_size=6), st.sampled_from([2, 9, 256])
)
@MODERATE
def test_a_mixture_of_logistics_sums_to_1_whatever_its_parameters(numbers, count):
    kind = Levels(count, 2)
    log_p = kind.log_probs(torch.tensor(numbers).reshape(1, 6, 1, 1))
    assert torch.isfinite(log_p).all()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_mixture_is_the_difference_of_distribution_functions():
    kind = Levels(256, 3)
    given_ = params(kind, cells=(1, 1))[:1]
    shares, mu, log_s = (part.double()[0, :, 0, 0] for part in kind.parts(given_))
    upper = torch.arange(255) + 0.5
    below = [
        logistic.cdf(upper.numpy() / 255, m, math.exp(s))
        for m, s in zip(mu.tolist(), log_s.tolist(), strict=True)
    ]
    cdf = (shares.exp()[:, None] * torch.from_numpy(np.stack(below))).sum(0)
    wanted = torch.diff(cdf, prepend=torch.zeros(1), append=torch.ones(1))
    found = kind.log_probs(given_)[0, :, 0, 0].exp()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-8)


def test_a_sharp_part_far_from_a_level_still_has_a_gradient():
    kind = Levels(256, 1)
    raw = torch.tensor([0.0, 0.5, -9.0]).reshape(1, 3, 1, 1).requires_grad_()
    found = kind.log_prob(raw, torch.zeros(1, 1, 1, dtype=torch.int64))
    assert found.item() < -500  # a plain difference would be log 0
    found.sum().backward()
    assert torch.isfinite(raw.grad).all()
    assert raw.grad[0, 1, 0, 0] < 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{type(k).__name__}{k.count}")
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_every_kind_sums_to_1_and_agrees_with_itself(kind, scale):
    given_ = params(kind, scale)
    log_p = kind.log_probs(given_)
    assert log_p.shape == (2, kind.count, 3, 4)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2, 3, 4), rtol=1e-4, atol=1e-4)
    for value in range(0, kind.count, max(1, kind.count // 5)):
        values = torch.full((2, 3, 4), value)
        own = kind.log_prob(given_, values)
        torch.testing.assert_close(own, log_p[:, value], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [k for k in KINDS if k.count != 3], ids=lambda k: str(k.count))
def test_the_mean_is_that_of_all_values(kind):
    given_ = params(kind)
    grey = kind.grey(torch.arange(kind.count))
    wanted = (kind.log_probs(given_).exp() * grey[:, None, None]).sum(1)
    torch.testing.assert_close(kind.mean(given_), wanted, rtol=1e-4, atol=1e-5)


def test_of_three_states_the_mean_is_the_fail_rate_of_a_die_that_is_there():
    p = torch.tensor([0.5, 0.4, 0.1]).reshape(1, 3, 1, 1)
    assert States().mean(p.log()).item() == pytest.approx(0.2)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{type(k).__name__}{k.count}")
def test_what_is_usual_and_how_it_varies_by_drawing(kind):
    log_p = kind.log_probs(params(kind, cells=(1, 1)))[:1]
    p = log_p[0, :, 0, 0].exp()
    drawn = torch.multinomial(p, 200_000, True, generator=torch.Generator().manual_seed(1))
    n = -log_p[0, drawn, 0, 0]
    assert outputs.usual(log_p).item() == pytest.approx(n.mean().item(), rel=0.02)
    assert outputs.varied(log_p).item() == pytest.approx(n.var().item(), rel=0.05, abs=1e-4)


def test_a_value_that_cannot_come_adds_nothing_to_what_is_usual():
    log_p = torch.tensor([0.0, -1e5]).reshape(1, 2, 1, 1)
    assert outputs.usual(log_p).item() == 0
    assert outputs.varied(log_p).item() == 0


@given(st.integers(2, 256), st.data())
@MODERATE
def test_a_grey_level_keeps_its_value(count, data):
    kind, value = Levels(count, 1), data.draw(st.integers(0, count - 1))
    x = value / (count - 1)
    assert kind.discretise(pictures([x])).item() == value
    assert kind.grey(torch.tensor(value)).item() == pytest.approx(x)


@pytest.mark.parametrize(
    ("kind", "levels", "values"),
    [
        (Binary(), [0.0, 0.3, 0.7, 1.0], [0, 0, 1, 1]),
        (States(), [0.0, 0.3, 0.7, 1.0], [1, 1, 2, 2]),
        (Levels(5, 1), [0.0, 0.1, 0.2, 0.9, 1.0], [0, 0, 1, 4, 4]),
    ],
)
def test_images_are_cut_into_values_and_what_is_not_covered_is_0(kind, levels, values):
    images = pictures(levels)
    assert kind.discretise(images).flatten().tolist() == values
    images[:, 1] = 0
    assert kind.discretise(images).flatten().tolist() == [0] * len(values)


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: f"{type(k).__name__}{k.count}")
def test_what_a_network_reads_tells_every_value_apart(kind):
    every = torch.arange(kind.count).reshape(-1, 1, 1)
    read = kind.encode(every)
    assert read.shape == (kind.count, kind.inside, 1, 1)
    assert len({tuple(cell.flatten().tolist()) for cell in read}) == kind.count
    assert read.abs().max() <= 1


def test_averages_of_a_few_pixels_lie_on_no_edge_between_levels():
    for count in (2, 4, 8, 16, 32, 64, 128, 256):
        for pixels in (1, 2, 3, 4, 6, 9, 12, 16):
            place = torch.arange(255 * pixels + 1).double() / (255 * pixels) * (count - 1)
            edge = place + 0.5 + outputs.NUDGE
            assert (edge - edge.round()).abs().min() > 1e-5
