import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_batches import Stripes
from torch.nn import functional as F

from inspect_ai.errors import BadSettings
from inspect_ai.models.autoencoder import Config, hide, hiding_sets
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run

VARIANTS = ["plain", "denoising", "contractive", "masked"]
OUTPUTS = ["gaussian", "bernoulli"]
BOTH = list(itertools.product(VARIANTS, OUTPUTS))
MODERATE = settings(max_examples=40, deadline=None, derandomize=True)


def model(grid=(16, 16), channels=1, **fields):
    torch.manual_seed(0)
    small = {"width": 4, "depth": 2, "latent": 4, "mask_cells": 2}
    return Config(**small | fields).build(channels, grid)


def images(count=4, channels=1, grid=(16, 16), coverage=None):
    x = torch.rand(count, channels, *grid, generator=torch.Generator().manual_seed(1))
    w = torch.ones(count, 1, *grid) if coverage is None else coverage
    return torch.cat([x, w], 1)


@pytest.mark.parametrize(("variant", "output"), BOTH)
def test_training_lowers_the_loss(variant, output):
    losses = []
    budget = Budget(steps=150, learning_rate=5e-3)
    run = Run(budget, lambda _, found: losses.append(found["autoencoder"]))
    model(variant=variant, output=output).fit(Stripes(), run)
    floor = {"gaussian": 0.0, "bernoulli": 0.56}[output]  # the entropy of the stripes themselves
    assert sum(losses[-10:]) / 10 - floor < 0.6 * (sum(losses[:10]) / 10 - floor)


@pytest.mark.parametrize(("depth", "side"), [(1, 4), (2, 8), (3, 24), (6, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_expectation_has_the_shape_of_the_image(depth, side, channels):
    built = model((side, 2 * side), channels, depth=depth)
    expected = built(images(2, channels, (side, 2 * side))).expected
    assert expected.shape == (2, channels, side, 2 * side)


@pytest.mark.parametrize(
    ("depth", "grid", "step"), [(3, (28, 32), 8), (4, (64, 72), 16), (1, (4, 5), 2)]
)
def test_a_grid_that_cannot_be_halved_is_refused_and_the_advice_works(depth, grid, step):
    wanted = rf"{grid[0]} x {grid[1]} cannot be halved {depth} times.*multiples of {step},"
    with pytest.raises(BadSettings, match=wanted):
        Config(depth=depth).build(1, grid)
    Config(depth=depth).build(1, (2 * step, step))


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_misfit_is_the_mean_over_covered_cells_by_hand(output):
    logits = torch.tensor([0.0, 2.0, -1.0, 5.0]).reshape(1, 1, 2, 2)
    x = torch.tensor([0.5, 0.2, 0.9, 0.0]).reshape(1, 1, 2, 2)
    w = torch.tensor([1.0, 0.5, 0.25, 0.0]).reshape(1, 1, 2, 2)
    p = torch.sigmoid(logits)
    error = {"gaussian": (x - p) ** 2, "bernoulli": -x * p.log() - (1 - x) * (1 - p).log()}
    wanted = (w * error[output]).sum() / 1.75
    found = model(output=output).misfit(logits, torch.cat([x, w], 1))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(("variant", "output"), BOTH)
def test_what_is_not_covered_enters_neither_loss_nor_expectation(variant, output):
    coverage = (torch.rand(4, 1, 16, 16) > 0.4).float()
    known = images(coverage=coverage)
    junk = torch.cat([torch.where(coverage > 0, known[:, :1], 0.9), coverage], 1)
    built = model(variant=variant, output=output)
    losses = []
    for batch in (known, junk):
        torch.manual_seed(5)  # the same noise and masks
        losses.append(built.loss(batch).item())
    assert losses[0] == losses[1]
    assert torch.equal(built(known).expected, built(junk).expected)


def test_the_loss_leaves_the_batch_as_it_was():
    for variant in VARIANTS:
        batch = images()
        model(variant=variant).loss(batch)
        assert torch.equal(batch, images())
        assert not batch.requires_grad


def test_the_contractive_penalty_is_the_jacobians_norm_on_average():
    built = model((8, 8), variant="contractive", latent=3, penalty=1.0)
    batch = images(2, grid=(8, 8), coverage=(torch.rand(2, 1, 8, 8) > 0.3).float())
    misfit = built.misfit(built.redraw(batch), batch).item()
    draws = []
    for seed in range(30):
        torch.manual_seed(seed)
        draws.append(built.loss(batch.repeat(100, 1, 1, 1)).item() - misfit)

    def code(x):
        return built.encode(torch.cat([x, batch[:, -1:]], 1)).sum(0)

    jacobian = torch.autograd.functional.jacobian(code, batch[:, :-1])  # (Z, N, C, h, w)
    exact = jacobian.square().sum((0, 2, 3, 4)).mean().item()
    assert exact > 0
    assert sum(draws) / len(draws) == pytest.approx(exact, rel=0.05)


@given(st.integers(2, 9), st.integers(1, 7), st.tuples(st.integers(1, 30), st.integers(1, 30)))
@MODERATE
def test_hiding_sets_hide_every_cell_exactly_once(sets, side, grid):
    masks = hiding_sets(sets, side, grid)
    assert masks.shape == (sets, *grid)
    assert torch.equal(masks.sum(0), torch.ones(grid))
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("sets", range(2, 10))
def test_the_squares_beside_a_hidden_square_are_seen(sets):
    owner = hiding_sets(sets, 3, (36, 36)).argmax(0)[::3, ::3]
    assert (owner[1:] != owner[:-1]).all()
    assert (owner[:, 1:] != owner[:, :-1]).all()


def test_hiding_leaves_half_grey_and_the_coverage():
    batch, hidden = images(), hiding_sets(2, 4, (16, 16))[0]
    found = hide(batch, hidden)
    assert (found[:, :1][:, :, hidden > 0] == 0.5).all()
    assert torch.equal(found[:, :1][:, :, hidden == 0], batch[:, :1][:, :, hidden == 0])
    assert torch.equal(found[:, 1:], batch[:, 1:])


def slope_at_itself(built, row, column):
    batch = images(1).requires_grad_()
    built(batch).expected[0, 0, row, column].backward()
    return batch.grad[0, 0]


@pytest.mark.parametrize(("row", "column"), [(0, 0), (7, 9), (15, 4)])
def test_what_a_masked_model_expects_at_a_cell_does_not_depend_on_that_cell(row, column):
    slope = slope_at_itself(model(variant="masked"), row, column)
    assert slope[row, column] == 0
    assert slope.abs().max() > 0
    assert slope_at_itself(model(variant="plain"), row, column)[row, column] != 0


def test_the_noise_has_the_strength_asked_for_and_leaves_the_coverage():
    built = model(variant="denoising", noise=0.3, noise_cells=16)
    batch = images(400)
    noise = built.noisy(batch) - batch
    assert noise[:, 0].std().item() == pytest.approx(0.3, rel=0.05)
    assert (noise[:, 1] == 0).all()


def test_coarse_noise_is_smooth():
    noise = model(variant="denoising", noise_cells=4).noisy(torch.zeros(100, 2, 32, 32))[:, :1]
    step = (noise[..., 1:] - noise[..., :-1]).std()
    assert step < 0.25 * noise.std()
    assert F.avg_pool2d(noise, 4).std() > 0.7 * noise.std()
