import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspect_ai.diffusing.dit import positions
from inspect_ai.diffusing.embed import Attention, Embed
from inspect_ai.diffusing.networks import Sizes, network
from inspect_ai.errors import BadSettings

UNET = Sizes(network="unet", width=8, depth=2, patch=2, heads=2)
DIT = Sizes(network="dit", width=8, depth=1, patch=2, heads=2)
BOTH = pytest.mark.parametrize("sizes", [UNET, DIT], ids=["unet", "dit"])
GRID = (8, 12)


def made(sizes, grid=GRID, inputs=2, outputs=1, classes=0):
    """A network whose every weight says something, as after training."""
    torch.manual_seed(0)
    net = network(sizes, inputs, outputs, grid, classes).eval()
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(std=0.2)
    return net


def images(count=3, channels=2, grid=GRID):
    return torch.randn(count, channels, *grid, generator=torch.Generator().manual_seed(1))


def times(count=3):
    return torch.linspace(0.1, 1, count)


@BOTH
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    ("patch", "grid"), [(1, (6, 4)), (2, (8, 12)), (4, (16, 8)), (8, (16, 32))]
)
def test_every_patch_and_grid_is_answered_cell_by_cell(sizes, classes, patch, grid):
    net = made(sizes.model_copy(update={"patch": patch}), grid, 3, 2, classes)
    condition = torch.tensor([0, 2, 3]) if classes else None
    found = net(images(3, 3, grid), times(), condition)
    assert found.shape == (3, 2, *grid)
    assert found.isfinite().all()
    assert (found.std((0, 2, 3)) > 0.01).all()


@pytest.mark.parametrize("classes", [0, 3])
def test_a_transformer_reads_one_token_as_a_code_without_a_place(classes):
    net = made(DIT.model_copy(update={"patch": 1}), (1, 1), 9, 8, classes)
    condition = torch.tensor([0, 2, 3]) if classes else None
    assert net(images(3, 9, (1, 1)), times(), condition).shape == (3, 8, 1, 1)
    assert not [name for name, _ in net.named_parameters() if "places" in name]


@BOTH
@pytest.mark.parametrize("classes", [0, 3])
def test_an_untrained_network_says_0(sizes, classes):
    net = network(sizes, 2, 1, GRID, classes)
    condition = torch.tensor([0, 2, 3]) if classes else None
    assert not net(images(), times(), condition).any()


@BOTH
def test_a_first_step_of_training_moves_what_the_network_says(sizes):
    net = network(sizes, 2, 1, GRID, 2)
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    lost = []
    for _ in range(30):
        loss = (net(images(), times(), torch.tensor([0, 1, 2])) - images()[:, :1]).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        lost.append(loss.item())
    assert lost[-1] < 0.5 * lost[0]
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # no softmax heeds what is added to every key
    assert [name for name in silent if not name.endswith("keys.bias")] == []


@BOTH
def test_time_changes_what_is_said(sizes):
    net, x = made(sizes), images(1).repeat(3, 1, 1, 1)
    found = net(x, torch.tensor([0.0, 0.001, 1.0]))
    assert (found[1] - found[0]).abs().max() > 1e-3
    assert (found[2] - found[0]).abs().max() > 1e-2


@BOTH
def test_every_class_and_being_told_nothing_differ(sizes):
    net, x = made(sizes, classes=3), images(1).repeat(4, 1, 1, 1)
    found = net(x, torch.full((4,), 0.5), torch.arange(4)).flatten(1)
    apart = torch.cdist(found, found) + 9 * torch.eye(4)
    assert apart.min() > 1e-2


@BOTH
def test_a_class_is_read_token_by_token_and_not_by_the_mean_alone(sizes):
    net = made(sizes, classes=2)
    before = net(images(), times(), torch.tensor([0, 1, 2]))
    with torch.no_grad():  # the mean of the tokens stays
        tokens = net.embed.classes.weight.view(3, sizes.tokens, -1)
        tokens[:, 0] += 1
        tokens[:, 1] -= 1
    after = net(images(), times(), torch.tensor([0, 1, 2]))
    assert (after - before).abs().amax((1, 2, 3)).min() > 1e-3


@BOTH
def test_the_coarsest_places_see_the_whole_image(sizes):
    net, x = made(sizes, (32, 32)), images(1, 2, (32, 32)).requires_grad_()
    net(x, times(1))[0, 0, 0, 0].backward()
    assert (x.grad[0].abs().sum(0) > 0).float().mean() > 0.95


@BOTH
def test_an_image_is_answered_alone_as_in_a_batch(sizes):
    net, condition = made(sizes, classes=2), torch.tensor([0, 1, 2])
    together = net(images(), times(), condition)
    for n in range(3):
        alone = net(images()[n : n + 1], times()[n : n + 1], condition[n : n + 1])
        torch.testing.assert_close(alone[0], together[n], rtol=0, atol=1e-5)


@BOTH
def test_places_are_told_apart(sizes):
    net = made(sizes.model_copy(update={"patch": 1}), (8, 8))
    found = net(torch.ones(1, 2, 8, 8), times(1))
    assert found.std() > 1e-3


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["unet", "dit"]),
    depth=st.integers(1, 4),
    patch=st.sampled_from([1, 2, 4]),
    grid=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_grid_is_built_on_or_refused_and_multiples_of_what_is_named_are_built_on(
    kind, depth, patch, grid
):
    sizes = Sizes(network=kind, width=8, depth=depth, patch=patch)
    step = patch * 2 ** (depth - 1) if kind == "unet" else patch
    if grid[0] % step == 0 and grid[1] % step == 0:
        sizes.require(grid)
        return
    with pytest.raises(BadSettings, match=rf"multiples of {step}\.") as refused:
        network(sizes, 2, 1, grid)
    assert f"{grid[0]} x {grid[1]}" in str(refused.value)
    above = tuple(step * math.ceil(side / step) for side in grid)
    sizes.require(above)


def test_the_advice_of_a_refusal_works():
    asked = Sizes(width=8, depth=3, patch=4)
    with pytest.raises(BadSettings, match=r"96 x 40.*multiples of 16.*a smaller patch or depth"):
        network(asked, 2, 1, (96, 40))
    for change in ({"patch": 2}, {"depth": 2}):
        net = network(asked.model_copy(update=change), 2, 1, (96, 40))
        assert net(images(1, 2, (96, 40)), times(1)).shape == (1, 1, 96, 40)


@pytest.mark.parametrize("wrong", [{"width": 12}, {"depth": 0}, {"heads": 3}, {"patch": 3}])
def test_a_size_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(BadSettings, match=f"'{next(iter(wrong))}'"):
        Sizes.checked(wrong, "run.toml")


@settings(max_examples=30, deadline=None)
@given(time=st.floats(0, 1), width=st.integers(2, 40).map(lambda n: 2 * n))
def test_time_is_embedded_as_the_papers_do(time, width):
    waves = Embed(width).waves(torch.tensor([time], dtype=torch.float32))[0].double()
    n, u = width // 2, float(np.float32(time))
    angles = [1000 * u / 10_000 ** (i / n) for i in range(n)]
    expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    torch.testing.assert_close(
        waves, torch.tensor(expected).double(), rtol=0, atol=5e-4
    )  # of angles up to 1000


def test_a_token_is_there_for_each_class_and_for_being_told_nothing():
    embed = Embed(16, classes=3, tokens=5)
    embedded, tokens = embed(times(4), torch.arange(4))
    assert embedded.shape == (4, 16)
    assert tokens.shape == (4, 5, 16)
    torch.testing.assert_close(embedded, embed.mix(embed.waves(times(4))) + tokens.mean(1))
    assert torch.unique(tokens[:, 0], dim=0).shape[0] == 4


def test_without_classes_there_are_no_tokens():
    assert Embed(16)(times(), None)[1] is None


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("context", [0, 6])
def test_attention_is_a_mean_of_values_weighted_by_how_queries_meet_keys(heads, context):
    torch.manual_seed(0)
    layer = Attention(8, heads, context)
    x = torch.randn(2, 5, 8)
    read = torch.randn(2, 3, 6) if context else x
    found = layer(x, read if context else None)
    parts = []
    for q, k, v in zip(
        *(t.split(8 // heads, 2) for t in (layer.queries(x), layer.keys(read), layer.values(read))),
        strict=True,
    ):
        shares = torch.softmax(torch.einsum("nld,nkd->nlk", q, k) / math.sqrt(8 // heads), 2)
        parts.append(torch.einsum("nlk,nkd->nld", shares, v))
    torch.testing.assert_close(found, layer.mix(torch.cat(parts, 2)))


def test_every_place_has_a_position_of_its_own_and_neighbours_are_the_most_alike():
    found = positions(16, (4, 6))
    assert found.shape == (24, 16)
    apart = torch.cdist(found, found).view(4, 6, 4, 6)
    assert (apart.flatten(0, 1).flatten(1) + 9 * torch.eye(24)).min() > 0.1
    assert apart[1, 1, 1, 2] < apart[1, 1, 1, 4]
    assert apart[1, 1, 2, 1] < apart[1, 1, 3, 1]
    assert apart[1, 1, 1, 2] == pytest.approx(apart[1, 1, 2, 1].item())
