"""A diffusion process on images: its settings, its loss, what it draws, and what it sees."""

import math

import pytest
import torch
from torch import nn

from inspect_ai.diffusing.config import Config
from inspect_ai.diffusing.looks import Looks
from inspect_ai.diffusing.process import Image, Process
from inspect_ai.errors import BadSettings
from inspect_ai.training.draws import copies

GRID = (8, 8)
SMALL = {"network": "unet", "width": 8, "depth": 2, "patch": 1}


def config(**fields):
    return Config.checked({"net": SMALL} | fields, "[model]")


def process(classes=0, **fields):
    torch.manual_seed(0)
    made = Process(config(**fields), (2, *GRID), classes).eval()
    for weight in made.parameters():  # an untrained one says 0
        nn.init.normal_(weight, std=0.2)
    return made


def image(made, count=3, condition=None):
    draw = torch.Generator().manual_seed(1)
    w = torch.ones(count, 1, *GRID)
    w[:, :, :2] = 0
    return made.image(torch.rand(count, 2, *GRID, generator=draw), w, condition)


class Ideal(Process):
    """The best there is on independent numbers of N(0, 1)."""

    def denoised(self, image, x_t, t):
        return self.schedule.at(t)[0] * x_t * image.there


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"steps": 3}, r"levels = 4 is more than the schedule has: 3 steps; use levels = 3"),
        ({"sampling": 2000}, r"sampling = 2000 .* 1000 steps; use sampling = 1000 or less"),
        ({"steps": 20, "sampling": 9, "calls": 6}, r"step 5 of 20; use calls = 5 or less"),
        ({"lowest": 0.7}, r"lowest = 0.7 lies above highest = 0.6; swap them"),
        ({"steps": 10, "sampling": 9, "calls": 2, "inversion": 10}, r"use inversion = 9 or less"),
        (
            {"levels": 4, "lowest": 0.3, "highest": 0.3},
            r"fall on 1 of 1000 steps; use fewer levels",
        ),
        ({"guidance": 3.0, "drop": 0.0}, r"guidance = 3 with drop = 0.*use drop = 0.1, or"),
        ({"levels": 0}, r"levels.*greater than or equal to 1"),
        ({"inversion": 0}, r"inversion.*greater than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit_the_schedule_are_refused_with_what_would(fields, advice):
    with pytest.raises(BadSettings, match=advice):
        config(**fields)


def test_the_advice_can_be_followed():
    few = {"steps": 3, "levels": 3, "bound": 3, "sampling": 3, "calls": 1, "inversion": 2}
    assert config(**few, lowest=0.3, highest=1.0).levels == 3
    assert config(steps=20, sampling=9, calls=5).calls == 5
    assert config(steps=10, sampling=9, calls=2, inversion=9).inversion == 9


def test_levels_stand_in_even_steps_between_their_ends():
    assert config(levels=3, lowest=0.2, highest=0.6).times == (200, 400, 600)
    assert config(levels=1, lowest=0.2, highest=0.6).times == (400,)


def test_covered_numbers_have_mean_0_and_deviation_1_and_come_back():
    made = process()
    x = 0.3 + 0.1 * torch.randn(50, 2, *GRID)
    w = torch.ones(50, 1, *GRID)
    w[:, :, :3] = 0
    x[:, :, :3] = 77
    made.standardise(x, w)
    seen = made.image(x, w, None).x
    inside = seen[:, :, 3:].transpose(0, 1).flatten(1)
    torch.testing.assert_close(inside.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside.std(1), torch.ones(2), atol=1e-3, rtol=0)
    assert (seen[:, :, :3] == 0).all()
    torch.testing.assert_close(made.raw(seen)[:, :, 3:], x[:, :, 3:])


def test_a_flat_channel_stays_finite():
    made = process()
    made.standardise(torch.full((4, 2, *GRID), 0.5), torch.ones(4, 1, *GRID))
    assert (made.image(torch.full((1, 2, *GRID), 0.5), torch.ones(1, 1, *GRID), None).x == 0).all()


def test_what_is_not_covered_enters_no_loss_and_no_look():
    made = process()
    one = image(made)
    raw = torch.where(one.w > 0, made.raw(one.x), torch.tensor(9.0))
    other = made.image(raw, one.w, None)
    losses = []
    for each in (one, other):
        torch.manual_seed(0)
        losses.append((made.loss(each), made.timing(each)))
    assert losses[0] == losses[1]
    looks = Looks(made)
    for name in ("pull", "inverted", "surprise", "partial"):
        assert torch.equal(getattr(looks, name)(one), getattr(looks, name)(other))
        cells = getattr(looks, name)(one)
        assert (cells[..., :2, :] == 0).all()


def test_a_batch_is_asked_at_times_in_equal_steps_of_the_whole_schedule():
    made, seen = process(), []
    made.schedule.noised = lambda x0, eps, t: (seen.append(t), x0)[1]
    made.loss(image(made, count=10))
    gaps = seen[0].sort().values.diff()
    assert set(gaps.tolist()) <= {99, 100, 101}
    assert seen[0].min() >= 1
    assert seen[0].max() <= 1000


def test_training_lowers_the_loss_below_that_of_saying_nothing():
    torch.manual_seed(0)
    made = Process(config(), (1, *GRID))
    x = torch.randn(64, 1, 1, 1).expand(64, 1, *GRID)  # flat images: easy to tell from noise
    seen = made.image(x, torch.ones(64, 1, *GRID), None)
    adam = torch.optim.Adam(made.net.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = made.loss(seen)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_guidance_1_is_the_conditional_network_and_0_the_one_told_nothing():
    made = process(classes=3)
    seen = image(made, condition=torch.tensor([0, 1, 2]))
    x_t = torch.randn_like(seen.x)
    told = made.denoised(seen, x_t, 300)
    untold = made.denoised(seen._replace(condition=torch.full((3,), 3)), x_t, 300)
    assert torch.equal(made.guided(seen, 1.0)(x_t, 300), told)
    torch.testing.assert_close(made.guided(seen, 0.0)(x_t, 300), untold)
    torch.testing.assert_close(made.guided(seen, 3.0)(x_t, 300), untold + 3 * (told - untold))
    assert not torch.allclose(told, untold)


def test_guidance_without_a_condition_is_refused():
    with pytest.raises(BadSettings, match=r"guidance = 3 without a \[condition\]"):
        Process(config(guidance=3.0), (2, *GRID))


@pytest.mark.parametrize("target", ["x0", "epsilon", "v"])
def test_draws_of_a_network_that_says_nothing_stay_in_the_range_of_good_images(target):
    made = Process(config(target=target), (2, *GRID)).eval()
    x, w = torch.rand(50, 2, *GRID), torch.ones(50, 1, *GRID)
    made.standardise(x, w)
    drawn = made.draw(w, 0, None, 20)
    assert drawn.min() >= x.min() - 1e-4
    assert drawn.max() <= x.max() + 1e-4


def test_a_share_of_conditions_is_left_out_in_training():
    made, seen = process(classes=2, drop=0.25), []
    asked = made._asked
    made._asked = lambda image, x_t, t: (seen.append(image.condition), asked(image, x_t, t))[1]
    made.loss(image(made, count=400, condition=torch.zeros(400, dtype=torch.int64)))
    left_out = float((seen[0] == 2).float().mean())
    assert 0.25 - 4 * math.sqrt(0.25 * 0.75 / 400) < left_out < 0.25 + 4 * 0.0217


def test_four_levels_cost_four_calls_at_once_and_the_same_as_one_by_one():
    made, rows = process(levels=4), []
    seen = image(made, count=5)
    made.net.register_forward_hook(lambda module, given, out: rows.append(out.shape[0]))
    errors, x0 = Looks(made).levels(seen)
    assert rows == [20]
    assert errors.shape == (5, 4, *GRID)
    assert x0.shape == (5, 2, *GRID)
    noise, found = Looks(made).level_noise, []
    for k, t in enumerate(made.config.times):
        eps = noise[k] * seen.there
        x_t = made.schedule.noised(seen.x, eps, t)
        a, s = made.schedule.at(t)
        guess = (x_t - a * made.denoised(seen, x_t, t)) / s
        torch.testing.assert_close(
            errors[:, k], (eps - guess).square().mean(1), rtol=1e-3, atol=1e-4
        )
        found.append(made.denoised(seen, x_t, t))
    torch.testing.assert_close(x0, torch.stack(found).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "octaves"), [(4, 1), (8, 1), (32, 3), (64, 4)])
def test_clouds_end_at_a_period_of_two_cells(side, octaves):
    assert Process(config(), (1, side, side)).octaves == octaves


@pytest.mark.parametrize("noise", ["gaussian", "simplex"])
def test_noise_comes_in_pairs_of_opposite_sign_at_one_level_or_its_neighbour(noise):
    for draws, levels in ((1, 4), (2, 3)):
        kept = Looks(process(draws=draws, levels=levels, noise=noise)).level_noise
        assert torch.equal(kept[0::2], -kept[1::2])
        assert not torch.equal(kept[0], kept[2])


def test_draws_of_a_level_are_averaged():
    seen = image(process())
    many, _ = Looks(process(draws=2, levels=1)).levels(seen)
    looks = Looks(process(draws=2, levels=1))
    single = []
    for k in (0, 1):
        one = Looks(process(draws=1, levels=1))
        one.level_noise.copy_(looks.level_noise[k : k + 1])
        single.append(one.levels(seen)[0])
    torch.testing.assert_close(many, (single[0] + single[1]) / 2)


def test_a_draw_is_the_images_own_where_nothing_is_noisy():
    """DDIM from the first time of the schedule, where the network takes nothing away."""
    torch.manual_seed(0)
    made = Ideal(config(start=0.01, calls=2), (2, *GRID))
    seen = image(made)
    assert (Looks(made).partial(seen) - seen.x).abs().max() < 0.1


@pytest.mark.parametrize("calls", [4, 100])
def test_the_bound_of_the_ideal_process_is_the_negative_log_likelihood_of_raw_numbers(calls):
    torch.manual_seed(0)
    made = Ideal(config(bound=calls), (2, *GRID))
    made.centre.fill_(0.4)
    made.scale.copy_(torch.tensor([0.1, 0.3])[:, None, None])
    raw, w = made.raw(torch.randn(200, 2, *GRID)), torch.ones(200, 1, *GRID)
    made.measure([made.image(raw, w, None)])
    normal = torch.distributions.Normal(made.centre, made.scale)
    nll = -normal.log_prob(raw).sum((1, 2, 3))
    bound = Looks(made).surprise(made.image(raw, w, None)).sum((1, 2))
    # one draw of 128 numbers, shared by all: a quarter of a nat a number
    assert abs(float((bound - nll).mean())) < 32
    assert float(torch.corrcoef(torch.stack([bound, nll]))[0, 1]) > 0.5


def test_the_error_that_is_measured_is_that_of_the_ideal_process_at_any_time():
    torch.manual_seed(0)
    made = Ideal(config(), (2, *GRID))
    w = torch.ones(200, 1, *GRID)
    made.measure([Image(torch.randn(200, 2, *GRID), w, None) for _ in range(2)])
    times = (900, 500, 300)
    wanted = torch.stack([made.schedule.s[t].square() for t in times])  # variance of x_0 given x_t
    torch.testing.assert_close(made.misfit(times), wanted, rtol=0.2, atol=0)


def test_inverting_the_ideal_process_keeps_the_length_of_an_image():
    torch.manual_seed(0)
    made = Ideal(config(inversion=100), (2, *GRID))
    seen = Image(torch.randn(4, 2, *GRID), torch.ones(4, 1, *GRID), None)
    found = Looks(made).inverted(seen).sum((1, 2))
    torch.testing.assert_close(found, 0.5 * seen.x.square().sum((1, 2, 3)), rtol=0.1, atol=0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_draws_of_the_ideal_process_are_as_good_images_are(eta):
    torch.manual_seed(0)
    made = Ideal(config(eta=eta, noise="gaussian"), (2, *GRID))
    made.centre.fill_(5.0)
    made.scale.fill_(2.0)
    w = torch.ones(40, 1, *GRID)
    w[:, :, 0] = 0
    drawn = made.draw(w, 3, None, 100)
    inside = drawn[:, :, 1:]
    count = inside.numel()
    assert abs(float(inside.mean()) - 5) < 4 * 2 / math.sqrt(count)
    assert abs(float(inside.std()) - 2) < 4 * 2 / math.sqrt(2 * count)
    assert torch.equal(drawn, made.draw(w, 3, None, 100))
    assert not torch.equal(drawn, made.draw(w, 4, None, 100))


def test_the_time_of_a_clean_image_is_the_mean_of_its_bins():
    made = process(bins=4)
    made.timer.forward = lambda x: torch.log(torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0, 1.0]]))
    found = Looks(made).time(image(made, count=2))
    torch.testing.assert_close(found, torch.tensor([0.25, 0.875]))


def test_copies_of_an_image_stand_next_to_each_other():
    assert copies(torch.tensor([[1], [2]]), 2).flatten().tolist() == [1, 1, 2, 2]
