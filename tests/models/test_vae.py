import math

import numpy as np
import pytest
import torch
from made_vae import (
    KINDS,
    Products,
    Stripes,
    exact,
    half_covered,
    images,
    linear_images,
    model,
    ppca,
    total,
    trained,
)
from made_vectors import agrees_with_its_graph, scored_by_likelihood
from torch.distributions import Normal as Reference

from inspect_ai import models
from inspect_ai.errors import BadSettings
from inspect_ai.models.vae import Config
from inspect_ai.scoring import likelihood
from inspect_ai.training import ladder
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Batch, Run
from inspect_ai.training.detector import Single

# the linear model is PPCA, whose likelihood is known


@torch.no_grad()
def test_the_iwae_bound_at_the_true_posterior_is_the_likelihood_whatever_the_draws():
    for samples in (1, 4):
        made, density = ppca("iwae", samples)
        torch.testing.assert_close(
            total(made(linear_images())), exact(density), rtol=1e-4, atol=1e-3
        )


@torch.no_grad()
def test_the_elbo_at_the_true_posterior_is_the_likelihood():
    made, density = ppca("elbo", 4000)
    torch.testing.assert_close(total(made(linear_images())), exact(density), rtol=0, atol=0.05)


@torch.no_grad()
def test_the_elbo_falls_short_of_the_likelihood_by_the_posteriors_divergence():
    made, density = ppca("elbo", 4000, wrong=True)
    right, _ = ppca("elbo", 1)
    seen = ladder.shown(linear_images())
    (q,), (p,) = made.net.bottom_up(seen, None), right.net.bottom_up(seen, None)
    pair = [Reference(n.mean, (0.5 * n.log_var).exp()) for n in (q, p)]
    short = torch.distributions.kl_divergence(*pair).sum(1)
    assert short.min() > 0.05
    found = total(made(linear_images())) - exact(density)
    torch.testing.assert_close(found, short, rtol=0.03, atol=0.05)


@torch.no_grad()
def test_iwae_comes_closer_to_the_likelihood_with_every_draw():
    gaps = []
    for samples in (2, 20, 200, 4000):
        made, density = ppca("iwae", samples, wrong=True)
        gaps.append((total(made(linear_images())) - exact(density)).abs().mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] < 0.02


# surprise


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_surprise_sums_to_the_bound_computed_from_torchs_distributions(kind):
    made = model(**KINDS[kind])
    batch = images(coverage=half_covered())
    batch[:, -1, 0] = 1.0
    x, w, k = batch[:, :1], batch[:, 1:], made.config.samples
    estimates = made.net.bottom_up(ladder.shown(batch), None)
    noise = made.draws(1)
    bounds = []
    for draw in range(k):
        own = [n[draw : draw + 1].expand_as(e.mean) for n, e in zip(noise, estimates, strict=True)]
        logits, levels = made.net.top_down(estimates, own, None)
        if kind == "bernoulli":
            p = logits.sigmoid()
            drawn = -(w * (x * p.log() + (1 - x) * (1 - p).log())).sum((1, 2, 3))
        else:
            s = made.spread().sqrt()
            drawn = -(w * Reference(logits.sigmoid(), s).log_prob(x)).sum((1, 2, 3))
        pairs = [(Reference(q.mean, q.at(torch.ones(())) - q.mean), z) for q, _, z in levels]
        priors = [Reference(p.mean, p.at(torch.ones(())) - p.mean) for _, p, _ in levels]
        for (q, z), p in zip(pairs, priors, strict=True):
            each = q.log_prob(z) - p.log_prob(z)
            divergence = torch.distributions.kl_divergence(q, p)
            drawn = drawn + (each if kind == "iwae" else divergence).flatten(1).sum(1)
        bounds.append(drawn)
    bounds = torch.stack(bounds)
    wanted = math.log(k) - torch.logsumexp(-bounds, 0) if kind == "iwae" else bounds.mean(0)
    torch.testing.assert_close(total(made(batch)), wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_is_not_covered_enters_neither_loss_nor_what_is_seen(kind):
    made = model(**KINDS[kind])
    known = images(coverage=half_covered())
    junk = torch.cat([torch.where(known[:, 1:] > 0, known[:, :1], 0.9), known[:, 1:]], 1)
    losses = []
    for batch in (known, junk):
        torch.manual_seed(5)
        losses.append(made.loss(Batch(batch, None, 0.5)).item())
    assert losses[0] == losses[1]
    for a, b in zip(made(known), made(junk), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert (made(known).surprise[known[:, 1] == 0] == 0).all()


@torch.no_grad()
def test_an_image_of_which_nothing_is_covered_surprises_nobody():
    assert (model()(images(coverage=torch.zeros(4, 1, 16, 16))).surprise == 0).all()


@torch.no_grad()
def test_nothing_is_drawn_that_the_rule_does_not_read():
    made = model()
    made.wanted = frozenset()
    seen = made(images())
    assert seen.surprise is None
    assert seen.slope is None
    assert torch.equal(seen.expected, model()(images()).expected)


@torch.no_grad()
def test_the_code_costs_the_divergence_from_the_prior():
    made = model()
    (q,) = made.net.bottom_up(images(), None)
    pair = Reference(q.mean, (0.5 * q.log_var).exp()), Reference(0.0, 1.0)
    wanted = torch.distributions.kl_divergence(*pair).sum(1)
    torch.testing.assert_close(made(images()).kl, wanted)


# the loss


def loss(made, course=0.5, seed=3):
    torch.manual_seed(seed)
    return made.loss(Batch(images(), None, course)).item()


def parts(**fields):
    """The loss without its KL, and the KL; nats a number."""
    bare = loss(model(beta=0.0, **fields))
    return bare, loss(model(beta=1.0, **fields)) - bare


def test_beta_weighs_the_divergence():
    bare, coded = parts()
    assert coded > 0
    for beta in (0.5, 4.0):
        assert loss(model(beta=beta)) == pytest.approx(bare + beta * coded, rel=1e-5)


def test_the_warm_up_raises_beta_from_nothing_over_its_share_of_the_budget():
    bare, coded = parts()
    made = model(warm_up=0.4)
    for course, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        assert loss(made, course) == pytest.approx(bare + share * coded, rel=1e-5)
    assert loss(model(warm_up=0.0), 0.0) == pytest.approx(bare + coded, rel=1e-5)


def test_bits_below_the_free_ones_cost_a_constant_and_have_no_slope():
    _, coded = parts(free_bits=2.0)
    assert coded == pytest.approx(3 * 2.0 / 256, rel=1e-4)  # 3 latent numbers, 256 cells
    made = model(free_bits=2.0, beta=1e3)
    made.loss(Batch(images(), None, 0.5)).backward()
    free = made.net.code[1].weight.grad
    made = model(free_bits=2.0, beta=0.0)
    made.loss(Batch(images(), None, 0.5)).backward()
    assert free.abs().max() < 1
    assert made.net.code[1].weight.grad.abs().max() > 0


def squared_error(made):
    """Of the draws of a loss with seed 3, by hand."""
    torch.manual_seed(3)
    estimates = made.net.bottom_up(images(), None)
    noise = [torch.randn_like(estimates[0].mean)]
    logits, _ = made.net.top_down(estimates, noise, None)
    return (logits.sigmoid() - images()[:, :1]).square().mean().item()


def test_the_loss_has_no_slope_with_a_learned_spread_that_is_the_root_mean_squared_error():
    made = model(noise="learned")
    slopes = []
    for share in (0.5, 1.0, 2.0):
        log_s = 0.5 * math.log(share * squared_error(made))
        made.spread.log_s.data.fill_(log_s / 10)
        made.zero_grad()
        torch.manual_seed(3)
        made.loss(Batch(images(), None, 0.5)).backward()
        slopes.append(made.spread.log_s.grad.item())
    assert slopes[0] < -1
    assert abs(slopes[1]) < 1e-3
    assert slopes[2] > 1


def test_the_optimal_spread_is_the_batchs_mean_squared_error_and_needs_no_less_loss():
    made = model().train()
    least = loss(made)
    s2 = made.spread().item()
    assert s2 == pytest.approx(squared_error(made), rel=1e-3)
    for share in (0.7, 1.4):
        assert least < loss(model(noise="fixed", sigma=math.sqrt(share * s2)))


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_loss(kind):
    losses = []
    run = Run(Budget(steps=60, learning_rate=5e-3), lambda _, of: losses.append(of["vae"]))
    model(warm_up=0.0, **KINDS[kind]).train().fit(Stripes(), run)
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.03


# slope


@pytest.mark.parametrize("output", ["gaussian", "bernoulli"])
@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(("channels", "classes"), [(1, 0), (3, 2)])
def test_the_slope_is_autograds(output, depth, channels, classes):
    made = model((8, 12), channels, classes, output=output, depth=depth)
    batch = images(3, channels, (8, 12), half_covered(3, (8, 12)))
    condition = torch.tensor([0, 1, 1]) if classes else None
    x = batch[:, :-1].requires_grad_()
    whole = torch.cat([x, batch[:, -1:]], 1)
    (q,) = made.net.bottom_up(ladder.shown(whole), condition)
    logits, levels = made.net.top_down([q], None, condition)
    bound = made.misfit(logits, whole).sum() + ladder.cost(levels).sum()
    (wanted,) = torch.autograd.grad(bound, x)
    made.wanted = frozenset({"slope"})
    found = made(whole, condition).slope
    near = 1e-5 * wanted.abs().max()
    torch.testing.assert_close(found, wanted.abs().sum(1), rtol=1e-4, atol=near)


def test_only_a_plain_model_offers_a_slope():
    assert "slope" in model().gives
    assert "slope" not in model(depth=3, levels=2).gives
    assert "slope" not in model(depth=3, skip=1).gives


@pytest.mark.parametrize(("depth", "classes"), [(0, 0), (2, 2)])
def test_the_slope_of_a_model_with_a_spatial_code_is_autograds(depth, classes):
    made = model((8, 12), 1, classes, depth=depth, spatial=True)
    batch = images(3, 1, (8, 12), half_covered(3, (8, 12)))
    condition = torch.tensor([0, 1, 1]) if classes else None
    x = batch[:, :-1].requires_grad_()
    whole = torch.cat([x, batch[:, -1:]], 1)
    estimates = made.net.bottom_up(ladder.shown(whole), condition)
    logits, levels = made.net.top_down(estimates, None, condition)
    assert levels[0].z.shape == (3, 3, 8 >> depth, 12 >> depth)
    bound = made.misfit(logits, whole).sum() + ladder.cost(levels).sum()
    (wanted,) = torch.autograd.grad(bound, x)
    made.wanted = frozenset({"slope"})
    near = 1e-5 * wanted.abs().max()
    found = made(whole, condition).slope
    torch.testing.assert_close(found, wanted.abs().sum(1), rtol=1e-4, atol=near)


@torch.no_grad()
def test_a_spatial_code_tells_where_an_image_changed_and_a_vector_does_not():
    one, other = images(1), images(1)
    other[0, 0, :2, :2] = 1 - other[0, 0, :2, :2]  # a corner of the first of 4 x 4 codes
    made = model(spatial=True)
    moved = (made.encode(one) - made.encode(other)).abs().amax((0, 1))
    assert moved.shape == (4, 4)
    assert moved[0, 0] > 0
    assert (moved[2:] == 0).all()
    assert model().encode(one).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("kind", ["plain", "spatial"])
@torch.no_grad()
def test_codes_are_redrawn_as_the_model_expects_the_image(kind):
    made, batch = model(**KINDS[kind]), images(coverage=half_covered())
    drawn = made.decode(made.encode(batch), batch[:, -1:])
    torch.testing.assert_close(drawn, made(batch).expected, rtol=0, atol=1e-6)


def test_only_one_level_of_codes_is_a_first_stage():
    assert model().latent == (3, 1, 1)
    assert model(spatial=True).latent == (3, 4, 4)
    assert model(depth=3, levels=2).latent is None
    assert model(depth=3, skip=1).latent is None


# conditions


def test_a_conditional_model_learns_what_each_product_looks_like():
    made = trained(model(classes=2, latent=1, warm_up=0.0), Products(), 150)
    both = torch.tensor([0, 1]).repeat_interleave(8)
    means = made.sample(torch.ones(16, 2, 16, 16), 0, both).mean((1, 2, 3))
    assert means[8:].mean() > means[:8].mean() + 0.2
    batch, condition = Products().at(0), Products().condition(0)
    with torch.no_grad():
        assert (total(made(batch, 1 - condition)) > total(made(batch, condition)) + 100).all()


# refusals


@pytest.mark.parametrize(
    "fields",
    [
        *({"latent": 0}, {"beta": -1}, {"free_bits": -0.1}, {"levels": 0}, {"samples": 0}),
        *({"sigma": 0}, {"warm_up": 2}, {"width": 3}, {"depth": 7}, {"skip": -1}, {"maps": 0}),
        *({"output": "poisson"}, {"noise": "loud"}, {"bound": "upper"}),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(fields):
    with pytest.raises(BadSettings, match=rf"'{next(iter(fields))}'"):
        models.config("vae", fields)


@pytest.mark.parametrize(
    ("fields", "grid", "said", "mended"),
    [
        ({"depth": 3}, (28, 32), "28 x 32 cannot be halved 3 times.*multiples of 8,", {"depth": 2}),
        ({"levels": 4}, (32, 32), "levels = 4.*depth 3 has room for 3.*= 3 or", {"levels": 3}),
        ({"levels": 2, "depth": 0}, (5, 5), "levels = 2.*depth 0 has room for 1", {"levels": 1}),
        ({"skip": 1, "levels": 2}, (32, 32), "skip = 1 with levels = 2.*or skip = 0", {"skip": 0}),
        ({"skip": 1, "depth": 1}, (32, 32), "depth = 1; needed.*2 or more", {"depth": 2}),
    ],
)
def test_what_does_not_fit_is_refused_and_the_advice_works(fields, grid, said, mended):
    with pytest.raises(BadSettings, match=said):
        Config(**fields).build(1, grid)
    Config(**fields | mended).build(1, grid)


# the graph

GRAPHS = {
    "ladder": ("picture", {"levels": 2, "bound": "iwae", "samples": 2, "noise": "cells"}),
    "skip": ("wafer_map", {"skip": 2, "output": "bernoulli", "samples": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRAPHS)
def test_onnx_gives_the_same_bound(kind, tmp_path):
    view, fields = GRAPHS[kind]
    detector, pixels = scored_by_likelihood("vae", {"width": 4} | fields, view)
    assert agrees_with_its_graph(detector, pixels, tmp_path / "model.onnx")


@pytest.mark.slow
def test_onnx_gives_the_same_slope(tmp_path):
    detector, pixels = scored_by_likelihood("vae", {"width": 4}, "picture")
    rule = likelihood.Config(rule="likelihood", kind="slope").build(1, (16, 16))
    sloped = Single(detector.preprocess, detector.model, rule).eval()
    assert agrees_with_its_graph(sloped, pixels, tmp_path / "model.onnx")
