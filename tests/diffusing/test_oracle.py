"""Step by step against diffusers' schedulers, whose time t is our t + 1."""

import numpy as np
import pytest
import torch

from inspect_ai.diffusing.samplers import ddim, ddpm, draw, inverted, strided
from inspect_ai.diffusing.schedules import Schedule

pytest.importorskip("diffusers", reason="the oracle is in the dev extra")

from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler, EDMEulerScheduler

KINDS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
TARGETS = {"x0": "sample", "epsilon": "epsilon", "v": "v_prediction"}
NETWORK = 0.3  # stands for one: an output that depends on its input and time
CLOSE = {"rtol": 2e-4, "atol": 2e-4}  # theirs are cumulative products in single precision


def out(x_t, t):
    return NETWORK * (x_t + torch.sin(x_t)) + 0.001 * t


def theirs(of, kind, target, steps):
    scale = 1000 / steps if kind == "linear" else 1
    return of(
        num_train_timesteps=steps,
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        beta_schedule=KINDS[kind],
        prediction_type=TARGETS[target],
        clip_sample=False,
        timestep_spacing="trailing",
    )


def images(seed=0):
    return torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [50, 1000])
def test_levels_and_noised_images(kind, steps):
    ours, reference = Schedule(kind, steps), theirs(DDPMScheduler, kind, "epsilon", steps)
    np.testing.assert_allclose(ours.a[1:].square(), reference.alphas_cumprod, rtol=1e-4, atol=1e-9)
    t = torch.tensor([1, steps // 2, steps])
    x0, eps = torch.randn(2, 3, 1, 4, 4)
    torch.testing.assert_close(
        ours.noised(x0, eps, t), reference.add_noise(x0, eps, t - 1), **CLOSE
    )
    wanted = reference.get_velocity(x0, eps, t - 1)
    torch.testing.assert_close(ours.wanted(x0, eps, t, "v"), wanted, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("calls", [40, 7])
def test_every_step_of_ddpm(kind, target, calls):
    ours, reference = Schedule(kind, 40), theirs(DDPMScheduler, kind, target, 40)
    times, x = strided(40, calls), images()
    reference.set_timesteps(timesteps=[t - 1 for t in times])
    for t, s in zip(times, (*times[1:], 0), strict=True):
        y = out(x, t)
        theirs_x = reference.step(y, t - 1, x, generator=torch.Generator().manual_seed(t))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(t))
        x0 = ours.x0(y, x, t, target)
        torch.testing.assert_close(x0, theirs_x.pred_original_sample, rtol=2e-3, atol=2e-4)
        if s == 0 and times[-1] == 1:
            noise = torch.zeros_like(noise)  # theirs draws none at its time 0; ours has variance 0
        x = ddpm(ours, x, x0, (t, s), noise)
        torch.testing.assert_close(x, theirs_x.prev_sample, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("calls", [40, 8])
def test_every_step_of_ddim(kind, target, eta, calls):
    ours, reference = Schedule(kind, 40), theirs(DDIMScheduler, kind, target, 40)
    reference.set_timesteps(calls)
    x = images()
    for index in reference.timesteps.tolist():
        t, s = index + 1, index + 1 - 40 // calls
        y, noise = out(x, t), images(t)
        theirs_x = reference.step(y, index, x, eta=eta, variance_noise=noise if eta else None)
        x = ddim(ours, x, ours.x0(y, x, t, target), (t, s), eta, noise)
        torch.testing.assert_close(x, theirs_x.prev_sample, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_every_step_of_inversion(kind, target):
    """Theirs is given, at each step, what ours asks of the network: at x_s, not yet at x_t."""
    ours, reference = Schedule(kind, 40), theirs(DDIMInverseScheduler, kind, target, 40)
    first = theirs(DDIMInverseScheduler, kind, "epsilon", 40)  # of no noise theirs takes it from e
    reference.set_timesteps(8)
    first.set_timesteps(8)
    indices, asked, x = reference.timesteps.tolist(), [], images()

    def denoise(x_s, s):
        asked.append(s)
        return ours.x0(out(x_s, s), x_s, s, target)

    found = inverted(denoise, ours, x, [index + 1 for index in indices])
    assert asked == [5, 5, 10, 15, 20, 25, 30, 35]
    x = first.step(ours.eps(out(x, 5), x, 5, target), indices[0], x).prev_sample
    for index, s in zip(indices[1:], asked[1:], strict=True):
        x = reference.step(out(x, s), index, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [10, 40])
def test_edm_is_an_euler_step_on_exploding_variance(steps):
    ours = Schedule("edm", steps)
    reference = EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction")
    reference.set_timesteps(steps)
    sigma = (ours.s / ours.a).flip(0)
    torch.testing.assert_close(sigma, reference.sigmas, rtol=1e-4, atol=0)

    def denoise(x_t, t):
        return ours.x0(out(x_t, t), x_t, t, "v")

    x_T = images()
    exploded = x_T / ours.a[steps]
    for t, index in zip(range(steps, 0, -1), reference.timesteps, strict=True):
        x_t = reference.scale_model_input(exploded, index)
        torch.testing.assert_close(x_t, exploded * ours.a[t], **CLOSE)
        x_s = ddim(ours, x_t, denoise(x_t, t), (t, t - 1))
        exploded = reference.step(out(x_t, t), index, exploded).prev_sample
        torch.testing.assert_close(x_s / ours.a[t - 1], exploded, **CLOSE)
    drawn = draw(denoise, ours, x_T, strided(steps, steps))
    torch.testing.assert_close(drawn, exploded, rtol=1e-3, atol=1e-3)
