import pytest
import torch
from torch.nn import functional as F

from inspect_ai.models.pixelcnn import Config


def model(grid=(8, 8), **fields):
    torch.manual_seed(0)
    small = {"width": 4, "layers": 2, "output": "binary"}
    made = Config(**small | fields).build(1, grid)
    with torch.no_grad():
        for key, weight in made.named_parameters():
            weight.add_((0.02 if key.endswith("own") else 0.3) * torch.randn(weight.shape))
    made.wanted = frozenset({"usual", "varied", "background"})
    return made.eval()


def wafers(count=3, side=11):
    """Round wafers of one size with random fails, (count, 2, side, side)."""
    at = torch.arange(side) - (side - 1) / 2
    dies = (at[:, None] ** 2 + at**2 <= (side / 2) ** 2).float().expand(count, 1, -1, -1)
    fails = (torch.rand(dies.shape, generator=torch.Generator().manual_seed(2)) < 0.2).float()
    return torch.cat([fails * dies, dies], 1)


@pytest.mark.parametrize("output", ["binary", "states"])
@pytest.mark.parametrize("background", ["independent", "mutated"])
@pytest.mark.parametrize("pad", [(0, 5, 0, 2), (3, 1, 4, 0)])
@torch.no_grad()
def test_a_wafer_means_the_same_wherever_it_lies_on_its_canvas(output, background, pad):
    made, maps = model(output=output, background=background), wafers()
    left, _, top, _ = pad
    for whole, moved in zip(made(maps), made(F.pad(maps, pad)), strict=True):
        if whole is not None:
            cut = moved[..., top : top + 11, left : left + 11]
            torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)
            assert moved.abs().sum().item() == pytest.approx(whole.abs().sum().item(), rel=1e-4)


@torch.no_grad()
def test_where_dies_are_is_told_to_binary_and_is_news_to_states():
    maps = wafers(1)
    holed = maps.clone()
    holed[:, :, 5, 5] = 0
    binary, states = model(), model(output="states")
    assert binary(holed).surprise[0, 5, 5] == 0
    assert states(holed).surprise[0, 5, 5] > 0
    assert states(holed).expected[0, 0, 5, 5] == 0
    corner = states(maps).surprise[0, 0, 0]
    assert corner > 0  # inside the rectangle of dies, where none is


@torch.no_grad()
def test_a_map_without_dies_has_no_surprise():
    for output in ("binary", "states", "levels"):
        seen = model(output=output, background="independent")(torch.zeros(2, 2, 9, 7))
        assert (seen.surprise == 0).all()
        assert (seen.background == 0).all()


def test_the_background_is_a_smaller_network():
    made = Config(background="mutated").build(1, (8, 8))
    sizes = [
        sum(w.numel() for w in part.net.parameters()) for part in (made.model, made.background)
    ]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("kernel", [3, 5, 7])
@torch.no_grad()
def test_every_kernel_that_is_allowed_gives_a_model(kernel):
    seen = model(kernel=kernel)(wafers())
    assert torch.isfinite(seen.surprise).all()
