import math

import pytest
import torch

from inspect_ai.models.pixelrnn import RowLSTM, RowNetwork

H, W = 9, 11


def felt(net, place):
    """What moves the output at a place: (H, W) booleans."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, H, W, dtype=torch.float64).requires_grad_()
    context, mask = (torch.ones(1, 1, H, W, dtype=torch.float64) for _ in range(2))
    net.double()(x, context, mask)[0, :, place[0], place[1]].square().sum().backward()
    return x.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize("place", [(0, 0), (0, 5), (4, 0), (6, 5), (8, 10)])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_cell_hears_of_no_cell_after_it_and_of_all_in_the_triangle_above(place, layers):
    torch.manual_seed(1)
    found = felt(RowNetwork((2, 3, 1), 4, layers, 1), place)
    row, column = torch.arange(H)[:, None] - place[0], torch.arange(W)[None, :] - place[1]
    before = (row < 0) | ((row == 0) & (column < 0))
    assert not found[~before].any()
    triangle = (row < 0) & (column.abs() <= -row)
    beside = (row == 0) & (column < 0) & (column >= -3)
    assert found[triangle | beside].all()


def test_one_cell_of_the_memory_by_hand():
    lstm = RowLSTM(1, 1, 1)
    with torch.no_grad():
        for weight in lstm.parameters():
            weight.zero_()
        lstm.read.weight[:, 0, 0, 2] = torch.tensor([0.1, 0.2, 0.3, 0.4])  # of the cell itself
        lstm.pass_on.weight[:, 0, 1] = torch.tensor([0.5, 0.6, 0.7, 0.8])
    x = torch.tensor([1.0, 2.0]).reshape(1, 1, 2, 1)

    def step(x, h, c):
        o, i, f = (1 / (1 + math.exp(-a * x - (a + 0.4) * h)) for a in (0.1, 0.2, 0.3))
        g = 0.4 * x + 0.8 * h
        c = f * c + i * math.tanh(g)
        return o * math.tanh(c), c

    h, c = step(1.0, 0.0, 0.0)
    second, _ = step(2.0, h, c)
    found = lstm(x, torch.zeros_like(x)).flatten().tolist()
    assert found == pytest.approx([h, second], rel=1e-5)


@pytest.mark.parametrize("place", [(0, 0), (3, 4), (8, 10)])
@torch.no_grad()
def test_peeking_at_a_cell_says_the_same_as_looking_at_all(place):
    torch.manual_seed(0)
    net = RowNetwork((2, 3, 1), 4, 2, 1)
    x, context = torch.randn(2, 2, H, W), torch.randn(2, 1, H, W)
    mask = torch.ones(2, 1, H, W)
    whole = net(x, context, mask)[:, :, place[0], place[1]]
    torch.testing.assert_close(net.peek(x, context, mask, place), whole)
