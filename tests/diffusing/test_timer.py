import pytest
import torch
from torch.nn import functional as F

from inspect_ai.diffusing.timer import Timer


def noised(count, sigma, grid=(8, 8), seed=0):
    """Flat images of their own grey under noise, and their coverage."""
    torch.manual_seed(seed)
    x = torch.rand(count, 1, 1, 1) + sigma * torch.randn(count, 1, *grid)
    return torch.cat([x, torch.ones(count, 1, *grid)], 1)


def taught(timer, inputs, bins, steps=60):
    """Trained on batches of `inputs(seed)` at each bin."""
    adam = torch.optim.Adam(timer.parameters(), 1e-2)
    for step in range(steps):
        x = torch.cat([given(step) for given in inputs])
        wanted = torch.arange(bins).repeat_interleave(len(x) // bins)
        adam.zero_grad()
        F.cross_entropy(timer(x), wanted).backward()
        adam.step()
    return timer.eval()


@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (7, 5), (32, 32), (96, 40)])
def test_an_image_of_any_grid_is_given_a_logit_for_each_bin(grid):
    timer = Timer(3, 8, 10, grid)
    found = timer(torch.randn(4, 3, *grid))
    assert found.shape == (4, 10)
    assert found.isfinite().all()
    assert not torch.equal(found[0], found[1])


def test_it_learns_to_tell_little_noise_from_much():
    torch.manual_seed(0)
    inputs = [lambda n: noised(16, 0.1, seed=n), lambda n: noised(16, 1.0, seed=n)]
    timer = taught(Timer(2, 8, 2, (8, 8)), inputs, 2)
    few, much = timer(noised(200, 0.1, seed=999)), timer(noised(200, 1.0, seed=998))
    assert (few.argmax(1) == 0).float().mean() > 0.95
    assert (much.argmax(1) == 1).float().mean() > 0.95


def test_it_learns_how_loud_a_code_is_on_a_grid_of_one_cell():
    torch.manual_seed(0)

    def codes(sigma, seed):
        generator = torch.Generator().manual_seed(seed)
        return sigma * torch.randn(32, 16, 1, 1, generator=generator)

    inputs = [lambda n: codes(0.3, 2 * n), lambda n: codes(1.5, 2 * n + 1)]
    timer = taught(Timer(16, 16, 2, (1, 1)), inputs, 2)
    assert (timer(codes(0.3, 999)).argmax(1) == 0).float().mean() > 0.95
    assert (timer(codes(1.5, 998)).argmax(1) == 1).float().mean() > 0.95


def test_every_weight_learns():
    timer = Timer(2, 8, 4, (16, 16))
    timer(noised(4, 0.5, (16, 16))).square().sum().backward()
    assert all(p.grad.any() for p in timer.parameters())


def test_an_image_is_answered_alone_as_in_a_batch():
    timer, x = Timer(2, 8, 4, (8, 8)).eval(), noised(5, 0.5)
    together = timer(x)
    for n in range(5):
        torch.testing.assert_close(timer(x[n : n + 1])[0], together[n], rtol=0, atol=1e-6)
