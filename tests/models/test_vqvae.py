import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_batches import Stripes
from pydantic import ValidationError

from inspect_ai.errors import BadSettings
from inspect_ai.models.vqvae import Config, constant_misfit, misfit, planted
from inspect_ai.training.budget import Budget
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.descent import Batch, Run
from inspect_ai.training.tokens import Hidden, Ordered, Sizes, cost, hiding_sets, moments

PRIORS = ["autoregressive", "masked"]
BOTH = list(itertools.product(PRIORS, ["gaussian", "bernoulli"]))
SMALL = {"width": 8, "depth": 2, "codes": 16, "dimension": 4, "prior_width": 12}


def model(grid=(16, 16), channels=1, **fields):
    torch.manual_seed(0)
    return Config(**SMALL | fields).build(channels, grid).eval()


def images(count=6, grid=(16, 16), coverage=None, channels=1):
    x = torch.rand(count, channels, *grid, generator=torch.Generator().manual_seed(1))
    w = torch.ones(count, 1, *grid) if coverage is None else coverage
    return torch.cat([x, w], 1)


class Twins(Stripes):
    """Dark and bright squares of 4 x 4 cells as they fall, the right half as the left."""

    def at(self, step):
        draw = torch.Generator().manual_seed(step)
        squares = torch.randint(2, (16, 1, 4, 2), generator=draw).float().repeat(1, 1, 1, 2)
        x = 0.2 + 0.6 * squares.repeat_interleave(4, 2).repeat_interleave(4, 3)
        return torch.cat([x, torch.ones_like(x)], 1)


def trained_on(batches, steps, **fields):
    losses = []
    budget = Budget(steps=steps, learning_rate=5e-3, average=0.95)
    made = model(codes=32, **fields).train()
    made.fit(batches, Run(budget, lambda _, found: losses.append(found)))
    return made.eval(), losses


@pytest.fixture(scope="module")
def striped():
    torch.set_num_threads(1)
    return trained_on(Stripes(), 250)


@pytest.fixture(scope="module")
def unseen():
    return Stripes().at(10_000)


def test_training_lowers_both_losses(striped):
    losses = striped[1]
    for player in ("coder", "prior"):
        first, last = losses[0][player], sum(found[player] for found in losses[-10:]) / 10
        assert last < 0.5 * first


@torch.no_grad()
def test_every_code_stays_in_use_and_the_prior_knows_them(striped, unseen):
    told = striped[0].told(unseen, None)
    assert told["codes_used_share"] > 0.8
    assert told["code_perplexity"] > 12
    assert told["code_nats"] < 0.8 * math.log(told["code_perplexity"])
    assert told["code_bits_per_dim"] == pytest.approx(told["code_nats"] / 16 / math.log(2))
    assert told["redraw_misfit"] < 0.2 * constant_misfit(unseen, "gaussian")
    assert told["codes_restored_share"] < 0.2


@pytest.mark.parametrize("prior", PRIORS)
def test_a_usual_image_is_its_redraw_and_a_planted_square_goes(prior):
    made = trained_on(Twins(), 250, prior=prior, prior_width=32, restore=0.95)[0].requires_grad_(
        False
    )
    clean = Twins().at(10_000)
    usual, plain = made(clean).expected, made.redrawn(clean)
    assert (usual - plain).abs().mean() < 0.02
    odd = clean.clone()
    odd[:, 0, 4:8, 8:12] = 1 - odd[:, 0, 4:8, 8:12]  # a usual part, but not its twin's
    restored, redrawn = made(odd).expected, made.redrawn(odd)

    def away(x):
        return (x - clean[:, :1])[:, :, 4:8, 8:12].square().mean()

    assert away(redrawn) > 0.1
    assert away(restored) < 0.6 * away(redrawn)
    score, usual_score = made(odd).surprise.sum((1, 2)), made(clean).surprise.sum((1, 2))
    assert (score > usual_score + 2).all()


@torch.no_grad()
def test_without_rounds_the_expectation_is_the_plain_redraw(unseen):
    made = model(rounds=0)
    made.coder.book.strayed.fill_(1e-9)  # no vector is between two codes
    torch.testing.assert_close(made(unseen).expected, made.redrawn(unseen))


@pytest.mark.parametrize("prior", PRIORS)
@torch.no_grad()
def test_the_surprise_sums_to_the_cost_of_the_covered_codes(prior):
    coverage = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    coverage[:, :, :, :6] = 0  # a column of patches in full, and a part of the next
    coverage[0] = 0
    made, batch = model(prior=prior), images(coverage=coverage)
    made.coder.book.strayed.fill_(1e-9)
    places = made.places(batch)
    chosen = made.chosen(batch, places)
    logp = made.prior(chosen, places.covered)
    wanted = -(chosen * logp).sum((1, 2, 3))
    seen = made(batch)
    torch.testing.assert_close(seen.surprise.sum((1, 2)), wanted, rtol=1e-4, atol=1e-5)
    assert (seen.surprise[coverage[:, 0] == 0] == 0).all()
    assert wanted[0] == 0
    assert wanted[1:].min() > 0
    assert torch.isfinite(seen.usual).all()


@torch.no_grad()
def test_codes_are_redrawn_as_an_image_is_without_a_prior(unseen):
    made, batch = model(rounds=0), unseen.clone()
    batch[:, -1, 8:, 8:] = 0  # whole patches have no code
    assert made.encode(batch).shape == (16, *made.latent) == (16, 4, 4, 4)
    drawn = made.decode(made.encode(batch), batch[:, -1:])
    torch.testing.assert_close(drawn, made(batch).expected)


@pytest.mark.parametrize("prior", PRIORS)
@torch.no_grad()
def test_usual_and_varied_are_moments_of_the_cost_of_drawn_codes(prior):
    logp = torch.log_softmax(2 * torch.randn(1, 5, 1, 1), 1)
    mean, variance = moments(logp)
    drawn = torch.multinomial(logp[0, :, 0, 0].exp(), 200_000, replacement=True)
    costs = -logp[0, drawn, 0, 0]
    assert mean.item() == pytest.approx(costs.mean().item(), rel=0.02)
    assert variance.item() == pytest.approx(costs.var().item(), rel=0.05)
    made, batch = model(prior=prior), images()
    places = made.places(batch)
    q = made.coder.book.shares(made.coder.encode(batch))
    for cells, codes in zip(made(batch)[3:5], moments(made.prior(q, places.covered)), strict=True):
        torch.testing.assert_close(cells.sum((1, 2)), codes.sum((1, 2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("prior", "output"), BOTH)
def test_what_is_not_covered_has_no_say(prior, output):
    coverage = (torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(3)) > 0.4).float()
    coverage[:, :, 8:, 8:] = 0  # whole patches
    known = images(coverage=coverage)
    junk = torch.cat([torch.where(coverage > 0, known[:, :1], 0.9), coverage], 1)
    found = []
    for batch in (known, junk):
        made = model(prior=prior, output=output)
        torch.manual_seed(5)
        losses = [made.loss(p, Batch(batch, None, 0.0)).item() for p in ("coder", "prior")]
        with torch.no_grad():
            found.append((losses, made(batch), made.coder.book.sums))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][2], found[1][2])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one is other is None or torch.equal(one, other)


@torch.no_grad()
def test_a_row_by_row_priors_probabilities_sum_to_1_over_all_codes():
    prior = Ordered(Sizes(codes=3, grid=(2, 2), width=6, layers=2))
    for weight in prior.parameters():
        weight.copy_(torch.randn_like(weight))
    every = torch.tensor(list(itertools.product(range(3), repeat=4))).reshape(81, 2, 2)
    q = torch.nn.functional.one_hot(every, 3).movedim(-1, 1).float()
    nats = cost(q, prior(q, torch.ones(81, 1, 2, 2))).double().sum((1, 2))
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert nats.std() > 0.5


@torch.no_grad()
def test_samples_come_as_often_as_the_prior_says():
    prior = Ordered(Sizes(codes=2, grid=(1, 2), width=6, layers=1))
    for weight in prior.parameters():
        weight.copy_(0.7 * torch.randn_like(weight))
    context = torch.ones(20_000, 1, 1, 2)
    drawn = prior.sample(context, torch.Generator().manual_seed(0))
    for first, second in itertools.product(range(2), repeat=2):
        q = torch.zeros(1, 2, 1, 2)
        q[0, first, 0, 0] = q[0, second, 0, 1] = 1
        p = (-cost(q, prior(q, context[:1])).sum()).exp().item()
        seen = (drawn == q).flatten(1).all(1).float().mean().item()
        assert seen == pytest.approx(p, abs=0.015)


@pytest.mark.parametrize("place", [(0, 0), (1, 3), (3, 2)])
def test_a_hidden_code_is_not_told_itself(place):
    prior = Hidden(Sizes(codes=4, grid=(4, 4), width=8, layers=3))
    q = torch.softmax(torch.randn(1, 4, 4, 4), 1).requires_grad_()
    prior(q, torch.ones(1, 1, 4, 4))[0, 1, place[0], place[1]].backward()
    assert (q.grad[0, :, place[0], place[1]] == 0).all()
    assert q.grad.abs().max() > 0


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_hiding_sets_hide_every_code_exactly_once(grid):
    assert torch.equal(hiding_sets(grid).sum(0), torch.ones(1, *grid))


@pytest.mark.parametrize("prior", PRIORS)
def test_the_limit_is_the_quantile_of_good_costs(prior):
    made = model(prior=prior).prior
    q = torch.nn.functional.one_hot(torch.randint(16, (64, 4, 4)), 16).movedim(-1, 1).float()
    context = torch.ones(64, 1, 4, 4)
    for _ in range(60):
        made.loss(q, context, 0.9)
    costs = cost(q, made(q, context)).flatten()
    assert (costs > made.limit).float().mean().item() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("grid", "channels"), [((16, 16), 1), ((8, 20), 3)])
@torch.no_grad()
def test_samples_are_images_of_the_coverage_asked_for_and_depend_on_the_seed(grid, channels):
    coverage = torch.ones(4, 1, *grid)
    coverage[[1, 3], :, :, :4] = 0
    made, like = model(grid, channels), images(4, grid, coverage, channels)
    drawn = made.sample(like, 3)
    assert drawn.shape == (4, channels, *grid)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (drawn[[1, 3], :, :, :4] == 0).all()
    assert torch.equal(drawn, made.sample(like, 3))
    assert not torch.equal(drawn, made.sample(like, 4))


def test_a_masked_prior_refuses_to_be_sampled_and_says_which_can():
    with pytest.raises(BadSettings, match=r"\"masked\" cannot.*prior = \"autoregressive\""):
        model(prior="masked").sample(images(1), 0)


@pytest.mark.parametrize(("prior", "names"), [("masked", 2), ("autoregressive", 3)])
@torch.no_grad()
def test_pictures_are_sheets_of_images(prior, names):
    sheets = model((16, 24), 3, prior=prior).pictures(images(20, (16, 24), channels=3), None)
    assert len(sheets) == names
    for sheet in sheets.values():
        assert sheet.shape[1:] == (8, 3, 16, 24)
        assert 0 <= sheet.min() <= sheet.max() <= 1


def test_a_planted_square_differs_from_what_was_there_and_leaves_the_rest():
    batch = images()
    odd = planted(batch)
    assert torch.equal(odd[:, -1:], batch[:, -1:])
    changed = (odd != batch)[:, 0]
    assert changed[:, 6:10, 6:10].all()
    assert changed.sum() == 6 * 16


@pytest.mark.parametrize("output", ["gaussian", "bernoulli"])
def test_no_constant_image_misses_less_than_the_mean(output):
    batch = images(coverage=torch.rand(6, 1, 16, 16))
    w = batch[:, -1:]
    mean = (w * batch[:, :1]).sum() / w.sum()
    best = constant_misfit(batch, output).item()
    for shift in (-0.1, 0.0, 0.1):
        logits = torch.logit(mean + shift).expand(6, 1, 16, 16)
        found = misfit(logits, batch, output).item()
        assert found == pytest.approx(best, rel=1e-4) if shift == 0 else found > best


@pytest.mark.parametrize("prior", PRIORS)
def test_a_resumed_fit_ends_with_the_same_weights(prior, tmp_path):
    whole = model(prior=prior).train().fit(Stripes(), Run(Budget(steps=8), lambda *_: None))

    class Killed(Exception):
        pass

    def stop(step, losses):
        if step == 5:
            raise Killed

    budget, kept = Budget(steps=8, save_every=4), Checkpoints(tmp_path / "state")
    with pytest.raises(Killed):
        model(prior=prior).train().fit(Stripes(), Run(budget, stop, kept))
    resumed = model(prior=prior).train().fit(Stripes(), Run(budget, lambda *_: None, kept))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


@pytest.mark.parametrize(("depth", "grid", "step"), [(3, (28, 32), 8), (2, (32, 34), 4)])
def test_a_grid_that_cannot_be_halved_is_refused_and_the_advice_works(depth, grid, step):
    wanted = rf"{grid[0]} x {grid[1]} cannot be halved {depth} times.*multiples of {step},"
    with pytest.raises(BadSettings, match=wanted):
        Config(depth=depth).build(1, grid)
    Config(depth=depth).build(1, (2 * step, step))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("codes", 1), ("dimension", 0), ("commitment", -1), ("decay", 1), ("depth", 0)),
        *(("restore", 1), ("rounds", -1), ("prior", "none"), ("prior_layers", 0)),
    ],
)
def test_impossible_settings_are_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        Config(**{field: value})
