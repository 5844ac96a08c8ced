"""What diffusion promises beyond the contract of every model."""

import numpy as np
import pytest
import torch
from torch import nn

from inspect_ai import models
from inspect_ai.errors import BadSettings
from inspect_ai.training.batches import Batches
from inspect_ai.training.budget import Budget
from inspect_ai.training.checkpoint import Checkpoints
from inspect_ai.training.descent import Run

GRID = (16, 16)
NET = {"network": "unet", "width": 8, "depth": 2, "patch": 2}


def built(classes=0, wanted=(), **fields):
    torch.manual_seed(0)
    made = models.config("diffusion", {"net": NET} | fields).build(1, GRID, classes).eval()
    for weight in made.parameters():  # an untrained network says 0
        nn.init.normal_(weight, std=0.1)
    made.wanted = frozenset(wanted)
    return made


def images(count=4):
    x = torch.rand(count, 1, *GRID, generator=torch.Generator().manual_seed(0))
    w = torch.ones(count, 1, *GRID)
    w[:, :, :2] = 0
    return torch.cat([x, w], 1)


def calls(model, batch):
    """Images that go through the network for each of a batch."""
    rows = []
    model.process.net.register_forward_hook(lambda part, given, out: rows.append(out.shape[0]))
    model(batch)
    return sum(rows) / len(batch)


@pytest.mark.parametrize(
    ("fields", "wanted", "most"),
    [
        ({"levels": 4}, ("errors",), 4),
        ({"levels": 4}, (), 4),
        ({"levels": 4}, ("errors", "pull"), 5),
        ({"levels": 4}, ("errors", "time"), 4),
        ({"levels": 2, "draws": 2}, ("errors",), 4),
        ({"redraw": "partial", "calls": 3}, (), 3),
        ({"redraw": "partial", "calls": 3}, ("errors",), 7),
        ({"levels": 1}, ("inverted",), 4),
        ({"levels": 1, "bound": 6}, ("surprise",), 7),
    ],
)
def test_what_is_asked_for_costs_so_many_network_calls(fields, wanted, most):
    assert calls(built(wanted=wanted, **fields), images()) == most


def test_it_says_what_its_rule_reads_and_no_more():
    everything = built(wanted=models.diffusion.Diffusion.gives)(images())
    assert everything.errors.shape == (4, 4, *GRID)
    for field in ("pull", "inverted", "surprise"):
        cells = getattr(everything, field)
        assert cells.shape == (4, *GRID)
        assert (cells[:, :2] == 0).all()
    assert everything.time.shape == (4,)
    nothing = built(redraw="partial")(images())
    assert {f for f in nothing._fields if getattr(nothing, f) is not None} == {"expected"}


def test_noise_that_is_no_gaussian_gives_no_likelihood():
    assert "surprise" in built().gives
    assert not {"surprise", "inverted"} & set(built(noise="simplex").gives)


def test_a_redraw_from_less_noise_is_nearer_to_the_image():
    """Whatever the network says."""
    batch = images()
    near, far = (
        (built(redraw="partial", start=share, calls=2)(batch).expected - batch[:, :1]).abs().mean()
        for share in (0.02, 0.6)
    )
    assert near < far


def test_a_fit_learns_scale_and_network_and_says_the_bound_in_bits():
    torch.manual_seed(0)
    made = models.config("diffusion", {"net": NET, "sampling": 3}).build(1, GRID)
    flat = 0.5 + 0.05 * torch.randn(64, 1, 1, 1).expand(64, 1, *GRID)
    batch = torch.cat([flat.clamp(0, 1), torch.ones(64, 1, *GRID)], 1)
    budget = Budget(steps=40, batch_size=32, learning_rate=3e-3, average=0.9)
    made.fit(Batches(batch.numpy(), 32, 0), Run(budget, lambda step, losses: None))
    made.eval()
    assert 0.03 < float(made.process.scale) < 0.07
    assert 0.48 < float(made.process.centre) < 0.52
    told = made.told(batch, None)
    parts = sum(told[f"{p}_bits_per_dim"] for p in ("prior", "denoising", "reconstruction"))
    unit = 8 + float(made.process.scale.log2())
    assert told["bound_bits_per_dim"] == pytest.approx(parts + unit, abs=1e-4)
    # independent numbers of the same deviation: what a model of flat images must do better than
    assert told["bound_bits_per_dim"] < 8 + 0.5 * torch.log2(torch.tensor(17.08 * 0.05**2)).item()
    assert made.glimpse().shape == (2, 8, 1, *GRID)
    assert set(made.pictures(batch, None)) == {"samples", "denoised"}


def test_a_killed_fit_goes_on_to_the_very_same_model(tmp_path):
    def killed(step, losses):
        if step == 4:
            raise KeyboardInterrupt

    def fitted(report, kept=None):
        torch.manual_seed(0)
        made = models.config("diffusion", {"net": NET}).build(1, GRID, 2)
        budget = Budget(steps=8, batch_size=4, save_every=3)
        drawn = Batches(images(16).numpy(), 4, 0, conditions=np.arange(16) % 2)
        return made.fit(drawn, Run(budget, report, kept))

    kept = Checkpoints(tmp_path / "state.safetensors")
    with pytest.raises(KeyboardInterrupt):
        fitted(killed, kept)
    resumed, whole = (fitted(lambda step, losses: None, k) for k in (kept, None))
    assert kept.load()[0] > 0
    pairs = zip(resumed.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_class_is_drawn_with_the_guidance_of_the_settings():
    batch, places = images(), torch.tensor([0, 1, 0, 1])
    one = built(classes=2, sampling=3).sample(batch, 0, places)
    same = built(classes=2, sampling=3, guidance=1.0).sample(batch, 0, places)
    more = built(classes=2, sampling=3, guidance=4.0).sample(batch, 0, places)
    assert torch.equal(one, same)
    assert not torch.equal(one, more)


def test_a_grid_that_the_network_cannot_halve_is_refused_with_what_would_fit():
    config = models.config("diffusion", {"net": NET})
    with pytest.raises(BadSettings, match=r"15 x 16 .* multiples of 4"):
        config.build(1, (15, 16))
    assert config.build(1, (12, 16)) is not None


def test_sheets_of_few_good_images_are_whole():
    made = built(sampling=2).pictures(images(3), None)
    assert made["samples"].shape == (2, 8, 1, *GRID)
    assert made["denoised"].shape == (5, 3, 1, *GRID)
