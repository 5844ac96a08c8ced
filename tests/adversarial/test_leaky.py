import pytest
import torch
from torch import nn

from inspect_ai.adversarial.leaky import begin, leaky, normed


def test_the_rectifier_leaks_a_fifth():
    assert leaky(torch.tensor([-1.0, 0.0, 2.0])).tolist() == pytest.approx([-0.2, 0.0, 2.0])


def test_numbers_keep_their_mean_square_through_many_fresh_layers():
    layers = [nn.Linear(128, 128) for _ in range(8)]
    x = torch.randn(500, 128)
    for layer in layers:
        begin(layer)
        x = leaky(layer(x))
    assert x.square().mean().item() == pytest.approx(1.0, abs=0.4)
    assert not any(layer.bias.any() for layer in layers)


def test_each_cell_is_normed_over_its_channels_and_a_black_one_stays_black():
    x = 3 * torch.randn(2, 5, 4, 3)
    x[0, :, 1, 2] = 0
    found = normed(x).square().mean(1)
    wanted = torch.ones(2, 4, 3)
    wanted[0, 1, 2] = 0
    assert torch.allclose(found, wanted, atol=1e-4)
