import pytest
import torch
from torch import nn

from inspect_ai.training.blocks import Up, down
from inspect_ai.training.pullback import trace

LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (3, 6)),
    "no bias": (lambda: nn.Linear(6, 4, bias=False), (3, 6)),
    "silu": (nn.SiLU, (3, 6)),
    "flatten": (nn.Flatten, (3, 2, 4, 5)),
    "unflatten": (lambda: nn.Unflatten(1, (2, 3)), (3, 6)),
    "pixel shuffle": (lambda: nn.PixelShuffle(2), (2, 8, 3, 5)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 2, 5, 7)),
    "even kernel": (lambda: nn.Conv2d(2, 3, 4, stride=2, padding=1), (2, 2, 8, 6)),
    "rest of a stride": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 2, 8, 7)),
    "long stride": (lambda: nn.Conv2d(2, 3, (2, 3), stride=(3, 4), padding=(0, 1)), (2, 2, 10, 9)),
    "groups, dilation": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (2, 4, 8, 9)),
    "halving": (lambda: down(2, 3), (2, 2, 6, 8)),
    "doubling": (lambda: Up(2, 3), (2, 2, 3, 5)),
}


def network():
    return nn.Sequential(
        *(down(2, 4), down(4, 6), nn.Flatten(), nn.Linear(36, 5), nn.Linear(5, 36), nn.SiLU()),
        *(nn.Unflatten(1, (6, 2, 3)), Up(6, 4), nn.Conv2d(4, 8, 3, padding=1), nn.PixelShuffle(2)),
    )


def agrees(layers, x):
    y, pull = trace(layers, x)
    wanted = x
    for layer in layers:
        wanted = layer(wanted)
    torch.testing.assert_close(y, wanted, rtol=0, atol=0)
    slope = torch.randn(y.shape)
    (reference,) = torch.autograd.grad(wanted, x, slope)
    found = pull(slope)
    assert found.shape == x.shape
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5 * reference.abs().max())
    return True


@pytest.mark.parametrize("name", LAYERS)
def test_a_layers_pullback_is_autograds(name):
    torch.manual_seed(0)
    made, shape = LAYERS[name]
    assert agrees([made()], torch.randn(shape, requires_grad=True))


def test_the_pullback_of_a_network_is_autograds():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8, 12, requires_grad=True)
    assert agrees([network()], x)
    assert agrees(list(network()), x)


def test_one_trace_pulls_back_many_slopes():
    torch.manual_seed(0)
    y, pull = trace([network()], torch.randn(2, 2, 8, 12))
    a, b = torch.randn(2, *y.shape)
    torch.testing.assert_close(pull(a) + 2 * pull(b), pull(a + 2 * b), rtol=1e-4, atol=1e-5)


def test_nothing_is_left_as_it_is():
    x = torch.randn(2, 3)
    y, pull = trace([], x)
    assert y is x
    assert pull(x) is x


def test_a_layer_that_is_not_known_is_refused_by_name():
    with pytest.raises(TypeError, match="No pullback of BatchNorm2d"):
        trace([nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)], torch.zeros(1, 1, 8, 8))
