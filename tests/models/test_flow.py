import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_vectors import agrees_with_its_graph, scored_by_likelihood

from inspect_ai.errors import BadSettings
from inspect_ai.models.flow import Config, drawn_back
from inspect_ai.training.budget import Budget
from inspect_ai.training.couplings import halves
from inspect_ai.training.descent import Run

VARIANTS = ["affine", "uniform"]
FEW = settings(max_examples=20, deadline=None, derandomize=True)


def model(grid=(4, 4), channels=1, **fields):
    torch.manual_seed(0)
    small = {"patch": 2, "steps": 4, "width": 8, "noise": 0.05}
    return Config(**small | fields).build(channels, grid)


def stirred(built, size=0.4, seed=1):
    """Couplings begin as nothing: give every weight a say, and the standardisation too."""
    torch.manual_seed(seed)
    for weight in built.parameters():
        torch.nn.init.normal_(weight, std=size)
    built.mean.uniform_(0.3, 0.7)
    built.deviation.uniform_(0.2, 1.5)
    return built.eval().requires_grad_(False)


def images(count=3, grid=(4, 4), channels=1, seed=0, share=1.0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, channels, *grid, generator=draw)
    w = (torch.rand(count, 1, *grid, generator=draw) < share).float()
    return torch.cat([x, w], 1)


def latent(built, batch):
    """What the flow is given of images, z, and each number's share of the log-determinant."""
    seen = built.patches(built.shown(batch), batch[:, -1:])
    return seen, *built.flow(seen.x, seen.counts, seen.told)


class Correlated:
    """Images of 2 x 2 cells from a Gaussian of strong correlations, all of them known."""

    COVARIANCE = 0.01 * torch.tensor(
        [[1.0, 0.9, 0.5, 0.4], [0.9, 1.0, 0.6, 0.5], [0.5, 0.6, 1.0, -0.3], [0.4, 0.5, -0.3, 1.0]]
    )

    def at(self, step):
        draw = torch.Generator().manual_seed(step)
        x = torch.randn(256, 4, generator=draw) @ torch.linalg.cholesky(self.COVARIANCE).T + 0.5
        return torch.cat([x.reshape(-1, 1, 2, 2), torch.ones(256, 1, 2, 2)], 1)

    def condition(self, step):
        return None

    def first(self, steps):
        return np.concatenate([self.at(step).numpy() for step in range(steps)])

    @classmethod
    def entropy(cls):
        return 0.5 * torch.logdet(2 * math.pi * math.e * cls.COVARIANCE).item()

    @classmethod
    def entropy_of_its_cells(cls):
        """What a model without correlations would reach."""
        return 0.5 * torch.log(2 * math.pi * math.e * cls.COVARIANCE.diagonal()).sum().item()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reach", [1, 3])
@pytest.mark.parametrize(("channels", "share"), [(1, 1.0), (3, 1.0), (2, 0.6)])
def test_the_inverse_undoes_the_flow(variant, reach, channels, share):
    built = stirred(model((6, 4), channels, variant=variant, reach=reach)).double()
    seen, z, _ = latent(built, images(5, (6, 4), channels, share=share).double())
    assert (z - seen.x).abs().max() > 0.5
    back = built.flow.inverse(z, seen.counts, seen.told)
    np.testing.assert_allclose(back, seen.x, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("reach", [1, 3])
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_the_log_determinant_is_that_of_the_jacobian(variant, reach, share):
    built = stirred(model(variant=variant, reach=reach)).double()
    batch = images(1, share=share).double()
    seen, _, log_det = latent(built, batch)

    def flow(x):
        return built.flow(x.reshape_as(seen.x), seen.counts, seen.told)[0].flatten()

    inside = seen.counts.flatten() > 0
    jacobian = torch.autograd.functional.jacobian(flow, seen.x.flatten())[inside][:, inside]
    assert log_det.sum().item() == pytest.approx(torch.linalg.slogdet(jacobian)[1].item(), abs=1e-8)
    own = seen.counts * (0.5 * latent(built, batch)[1] ** 2 + 0.5 * math.log(2 * math.pi))
    wanted = own.sum() + (seen.counts * built.deviation.log()).sum() - log_det.sum()
    assert built(batch).surprise.sum().item() == pytest.approx(wanted.item(), abs=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_density_integrates_to_one(variant, channels):
    alone = {"steps": 0} if channels == 1 else {}  # one number has no halves
    built = stirred(model((1, 1), channels, patch=1, variant=variant, **alone), size=0.3)
    line = torch.linspace(-16, 16, 20_001 if channels == 1 else 501)
    x = torch.cartesian_prod(*[line] * channels).reshape(-1, channels, 1, 1)
    p = torch.exp(-built(torch.cat([x, torch.ones(len(x), 1, 1, 1)], 1)).surprise.double())
    area = (line[1] - line[0]).item() ** channels
    assert p.max() > 1.5 * p.mean()
    assert p.sum().item() * area == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_couplings_it_is_the_standard_normal_density_cell_by_cell(channels):
    batch = images(4, channels=channels)
    found = model(channels=channels, steps=0)(batch).surprise
    wanted = (0.5 * batch[:, :-1] ** 2 + 0.5 * math.log(2 * math.pi)).sum(1)
    np.testing.assert_allclose(found.detach(), wanted, rtol=1e-6)
    untrained = model(channels=channels)(batch).surprise  # and so it is before training
    np.testing.assert_allclose(untrained.detach(), wanted, rtol=1e-6)


def test_the_jacobian_is_the_same_for_all_images_where_scaling_is_uniform():
    batch = images(6)
    uniform = latent(stirred(model(variant="uniform")), batch)[2]
    assert torch.equal(uniform, uniform[:1].expand_as(uniform))
    affine = latent(stirred(model(variant="affine")), batch)[2].sum((1, 2, 3))
    assert affine.std() > 0.1


def test_a_log_scale_is_bounded():
    built = stirred(model(variant="affine", clamp=0.5, steps=1), size=50.0)
    _, _, share = latent(built, images(20))
    scale = share - built.flow.scale
    assert 0.49 < scale.abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("fields", [{}, {"reach": 3}, {"blur": 1.0}])
def test_what_is_not_covered_has_no_say(variant, fields):
    built = stirred(model((6, 4), 2, variant=variant, **fields))
    known = images(4, (6, 4), 2, share=0.6)
    junk = torch.cat([torch.where(known[:, -1:] > 0, known[:, :-1], 0.9), known[:, -1:]], 1)
    one, two = built(known), built(junk)
    assert torch.equal(one.surprise, two.surprise)
    assert torch.equal(one.expected, two.expected)
    assert (one.surprise[known[:, -1] == 0] == 0).all()
    assert (one.expected * (1 - known[:, -1:]) == 0).all()
    losses = []
    for batch in (known, junk):
        torch.manual_seed(5)  # the same noise
        losses.append(built.loss(batch))
        built.begin(batch)
        losses.append(built.deviation.sum())
        stirred(built)
    assert losses[:2] == losses[2:]


def test_patches_that_no_cell_covers_add_nothing():
    batch = images(2)
    batch[1, -1, :2, :2] = 0
    seen = stirred(model())(batch)
    assert (seen.surprise[1, :2, :2] == 0).all()
    assert torch.isfinite(seen.surprise).all()
    assert torch.equal(seen.surprise[1, 2:, 2:], stirred(model())(batch).surprise[1, 2:, 2:])


def test_patches_are_alone_with_reach_1_and_see_their_neighbours_with_reach_3():
    batch, other = images(1, (8, 8)), images(1, (8, 8))
    other[0, 0, 0, 0] += 0.3
    for reach, moved in ((1, 4), (3, 64)):
        built = stirred(model((8, 8), reach=reach))
        changed = built(other).surprise != built(batch).surprise
        assert not changed[0, 2:, 2:].any() or reach == 3
        assert 1 <= changed.sum() <= moved
    assert changed[0, 2:4, 2:4].any()


def test_a_long_latent_is_drawn_back_to_the_shell_and_a_short_one_left():
    z = torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0], [5.0, 0.0]])[:, :, None, None]
    counts = torch.ones_like(z)
    counts[3, 1] = 0
    wanted = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0], [1.0, 0.0]])
    wanted[0] *= math.sqrt(2)
    np.testing.assert_allclose(drawn_back(z, counts)[:, :, 0, 0], wanted, rtol=1e-6)


def test_a_usual_patch_is_expected_as_it_is_and_an_odd_one_is_not():
    built = model()
    built.mean.fill_(0.5)
    built.deviation.fill_(0.1)
    batch = 0.5 + 0.05 * torch.sign(images() - 0.5)
    batch[:, 1] = 1
    batch[0, 0, :2, :2] = 1.0  # five deviations away
    expected = built.eval()(batch).expected.detach()
    np.testing.assert_allclose(expected[1:], batch[1:, :1], atol=1e-6)
    np.testing.assert_allclose(expected[0, 0, :2, :2], 0.6, atol=1e-6)
    np.testing.assert_allclose(expected[0, 0, 2:, 2:], batch[0, 0, 2:, 2:], atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_a_correlated_gaussian_to_its_entropy_and_samples_it(variant):
    built = model((2, 2), variant=variant, width=16, steps=4, noise=0.0)
    budget = Budget(steps=250, learning_rate=1e-2, average=0.97)
    built.fit(Correlated(), Run(budget, lambda *_: None)).eval().requires_grad_(False)
    new = torch.cat([Correlated().at(10_000 + step) for step in range(20)])
    nats = built(new).surprise.sum((1, 2)).mean().item()
    gap = Correlated.entropy_of_its_cells() - Correlated.entropy()
    assert gap > 1
    assert nats == pytest.approx(Correlated.entropy(), abs=0.1)
    told = built.told(new, None)
    assert told["bits_per_dim"] == pytest.approx(nats / 4 / math.log(2) + 8, abs=1e-4)
    assert told["latent_norm"] == pytest.approx(1, abs=0.05)
    drawn = built.sample(new[torch.arange(4000) % len(new)], 0).flatten(1)
    np.testing.assert_allclose(drawn.T.cov(), Correlated.COVARIANCE, atol=1.5e-3)


def test_standardisation_is_the_mean_and_the_deviation_of_good_images_with_the_noise():
    built = model(noise=0.3)
    batch = images(500)
    batch[:250, 1, 0, 0] = 0
    batch[:250, 0, 0, 0] = 9.0  # not covered
    built.begin(batch)
    mean, deviation = (
        torch.nn.functional.pixel_shuffle(b, 2)[0] for b in (built.mean, built.deviation)
    )
    np.testing.assert_allclose(mean[1:], batch[:, 0, 1:].mean(0), atol=1e-5)
    assert mean[0, 0].item() == pytest.approx(batch[250:, 0, 0, 0].mean().item(), abs=1e-5)
    wanted = (batch[:, 0, 1:].var(0) + 0.09).sqrt()
    np.testing.assert_allclose(deviation[1:], wanted, rtol=2e-3)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 99))
@FEW
def test_every_pair_of_steps_moves_every_number_once(numbers, steps, seed):
    found = halves(numbers, steps, seed)
    assert found.shape == (steps, numbers)
    for first, second in zip(found[::2], found[1::2], strict=False):
        assert first.sum() == numbers // 2
        assert torch.equal(first + second, torch.ones(numbers))


def test_samples_and_pictures_are_grey_levels_inside_the_coverage():
    built, batch = stirred(model((6, 4), 3), size=0.2), images(5, (6, 4), 3, share=0.7)
    drawn = built.sample(batch, 0)
    assert drawn.shape == (5, 3, 6, 4)
    assert (drawn * (batch[:, -1:] == 0) == 0).all()
    assert torch.equal(drawn, built.sample(batch, 0))
    assert not torch.equal(drawn, built.sample(batch, 1))
    sheets = built.pictures(batch, None)
    assert set(sheets) == {"samples", "expected"}
    for sheet in [*sheets.values(), drawn]:
        assert sheet.min() >= 0
        assert sheet.max() <= 1
    assert sheets["samples"].shape == (2, 5, 3, 6, 4)


@pytest.mark.parametrize(
    ("grid", "patch", "fits"),
    [((32, 30), 4, "2"), ((96, 40), 16, "2, 4, 8"), ((7, 7), 2, "7")],
)
def test_a_grid_that_cannot_be_cut_is_refused_with_the_patches_that_fit(grid, patch, fits):
    wanted = rf"{grid[0]} x {grid[1]} cannot be cut .*multiples of {patch}, or a patch of {fits}\."
    with pytest.raises(BadSettings, match=wanted):
        Config(patch=patch).build(1, grid)
    for side in map(int, fits.split(", ")):
        Config(patch=side, steps=1, width=1).build(1, grid)


def test_couplings_of_one_number_are_refused():
    with pytest.raises(BadSettings, match=r"no half can move the other\. Use a patch of 2 or more"):
        Config(patch=1).build(1, (7, 7))
    Config(patch=1).build(2, (7, 7))


@pytest.mark.parametrize(
    "field",
    [
        {"patch": 0},
        {"steps": -1},
        {"clamp": 0.0},
        {"noise": -0.1},
        {"variant": "spline"},
        {"reach": 2},
    ],
)
def test_impossible_settings_are_refused(field):
    with pytest.raises(BadSettings, match=next(iter(field))):
        Config.checked(field, "[model]")


@pytest.mark.slow
def test_onnx_gives_the_same_likelihood(tmp_path):
    fields = {"variant": "affine", "reach": 3, "patch": 4, "steps": 3, "blur": 0.7}
    detector, pixels = scored_by_likelihood("flow", fields, "picture")
    assert agrees_with_its_graph(detector, pixels, tmp_path / "model.onnx")
