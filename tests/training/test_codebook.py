import math

import pytest
import torch

from inspect_ai.training.codebook import (
    Codebook,
    one_hot,
    perplexity,
    straight_through,
)


def book(vectors, decay=0.5, size=4.0):
    """A codebook of known vectors, each used `size` times."""
    made = Codebook(len(vectors), len(vectors[0]), decay)
    made.sizes.fill_(size)
    made.sums.copy_(size * torch.tensor(vectors))
    made.strayed.fill_(size * len(vectors))
    return made


def grid(rows):
    """Vectors as one image with a place for each, (1, D, 1, M)."""
    return torch.tensor(rows).T[None, :, None, :]


CORNERS = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]


def test_a_vector_is_given_the_nearest_code():
    made, z = Codebook(7, 5, 0.9), torch.randn(3, 5, 4, 2)
    wanted = torch.cdist(z.movedim(1, -1), made.vectors).argmin(-1)
    assert torch.equal(made.nearest(z), one_hot(wanted, 7))
    away = (z[:, None] - made.vectors[:, :, None, None]).square().sum(2)
    torch.testing.assert_close(made.distances(z).float(), away, rtol=1e-4, atol=1e-5)


def test_distances_between_long_vectors_keep_their_digits():
    made = book([[1000.0, 0.0], [1000.0, 0.02]])
    found = made.distances(grid([[1000.0, 0.0]]))[0, :, 0, 0]
    e = made.vectors.double()
    wanted = (e - torch.tensor([1000.0, 0.0])).square().sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-8)


def test_sizes_and_sums_follow_a_batch_as_by_hand():
    made, z = book(CORNERS, decay=0.75), grid([[0.0, 1.0], [1.0, 0.0], [5.0, 0.0]])
    made.follow(z, made.nearest(z))
    assert made.sizes.tolist() == pytest.approx([3 + 0.5, 3 + 0.25, 3.0])
    assert made.sums.flatten().tolist() == pytest.approx([0.25, 0.25, 12 + 1.25, 0, 0, 12])
    assert made.strayed.item() == pytest.approx(9 + 0.25 * 3)
    wanted = [[0.25 / 3.5, 0.25 / 3.5], [13.25 / 3.25, 0], [0, 4]]
    torch.testing.assert_close(made.vectors, torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_a_vector_that_does_not_count_moves_nothing():
    made, z = book(CORNERS), grid([[0.0, 1.0], [90.0, 0.0]])
    counted = torch.tensor([1.0, 0.0])
    made.follow(z, made.nearest(z) * counted)
    assert made.sums[1].tolist() == [8.0, 0.0]
    assert made.sizes[1].item() == 2.0
    assert made.strayed.item() == pytest.approx(6 + 0.5)


def test_smoothing_keeps_the_codes_of_a_used_book_and_the_total():
    made = book(CORNERS)
    made.sizes.copy_(torch.tensor([9.0, 3.0, 0.0]))
    made.sums[2] = 0
    assert torch.isfinite(made.vectors).all()
    torch.testing.assert_close(made.vectors[0], made.sums[0] / 9, rtol=1e-4, atol=0)


def test_the_gradient_passes_the_code_as_if_it_were_not_there():
    z, e = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3, 4, 4)
    passed = straight_through(z, e)
    torch.testing.assert_close(passed, e)
    weight = torch.randn_like(z)
    (weight * passed).sum().backward()
    assert torch.equal(z.grad, weight)


def test_a_code_far_from_everything_moves_and_is_used():
    made, z = book([*CORNERS, [99.0, 99.0]]), torch.rand(2, 2, 6, 6)
    made.sizes[3] = 1e-3
    kept = made.vectors[:3].clone()
    made.restart(z, torch.ones(2, 6, 6))
    torch.testing.assert_close(made.vectors[:3], kept, rtol=1e-4, atol=1e-6)
    apart = (z.movedim(1, -1) - made.vectors[3]).square().sum(-1)
    assert apart.min() < 1e-6
    assert made.nearest(z)[:, 3].sum() > 0


def test_a_code_never_moves_to_what_does_not_count():
    z, counted = torch.full((1, 2, 4, 4), 50.0), torch.zeros(1, 4, 4)
    z[..., 2], counted[..., 2] = 0.5, 1
    made = Codebook(5, 2, 0.9)
    made.restart(z, counted)
    torch.testing.assert_close(made.vectors, torch.full((5, 2), 0.5), rtol=1e-3, atol=0)
    before = made.sums.clone()
    made.restart(z, torch.zeros(1, 4, 4))
    assert torch.equal(made.sums, before)


def test_training_uses_every_code_of_a_spread_out_family():
    made = Codebook(16, 2, 0.8)
    for _ in range(60):
        z = torch.rand(8, 2, 6, 6)
        made.restart(z, torch.ones(8, 6, 6))
        made.follow(z, made.nearest(z))
    z = torch.rand(64, 2, 6, 6)
    assert perplexity(made.nearest(z)) > 12
    assert (made.mixed(made.nearest(z)) - z).square().sum(1).mean() < 0.02  # of 1/6 by one code


def test_a_mean_over_steps_forgets_where_a_dead_code_lay():
    dead, alive = book([[50.0, 50.0]], size=1e-3), book([[1.0, 2.0]], size=5.0)
    mean = Codebook(1, 2, 0.9)
    for name, value in mean.state_dict().items():
        value.copy_((dead.state_dict()[name] + alive.state_dict()[name]) / 2)
    torch.testing.assert_close(mean.vectors, torch.tensor([[1.0, 2.0]]), rtol=0.02, atol=0)


def test_shares_are_one_code_away_from_borders_and_even_on_them():
    made = book(CORNERS)
    q = made.shares(grid([[0.5, 0.3], [2.0, 0.0], [2.01, 0.0]]))[0, :, 0]
    torch.testing.assert_close(q.sum(0), torch.ones(3))
    assert q[0, 0].item() == pytest.approx(1.0, abs=1e-6)
    assert q[:2, 1].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)
    assert q[1, 2].item() == pytest.approx(1 / (1 + math.exp(-0.08 / 0.05)), rel=1e-3)


@pytest.mark.parametrize("codes", [2, 5, 32])
def test_perplexity_counts_the_codes_that_are_used_evenly(codes):
    even = one_hot(torch.arange(codes * 6).reshape(2, 3, codes) % codes, codes)
    assert perplexity(even) == pytest.approx(codes, rel=1e-5)
    assert perplexity(one_hot(torch.ones(2, 3, 3, dtype=torch.int64), codes)) == pytest.approx(1)
    assert perplexity(torch.zeros(2, codes, 3, 3)) == 0
