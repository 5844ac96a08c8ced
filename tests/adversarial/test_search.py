import torch

from inspect_ai.adversarial.game import with_coverage
from inspect_ai.adversarial.search import Plan, losses, search


def linear(seed=0):
    """A generator whose code can be found: x = A z, and features that are the image."""
    A = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    return lambda z: (z @ A).reshape(-1, 1, 4, 4)


def whole(x):
    return with_coverage(x, torch.ones_like(x[:, :1]))


def test_a_search_finds_the_code_an_image_was_drawn_from():
    draw, z = linear(), torch.randn(5, 3)
    found = search(whole(draw(z)), draw, lambda x: x, torch.zeros(5, 3), Plan(600, rate=0.02))
    assert torch.allclose(found.codes, z, atol=0.05)
    assert (found.loss < 0.03).all()


def test_what_cannot_be_drawn_keeps_a_larger_loss():
    draw, z = linear(), torch.randn(5, 3)
    odd = draw(z) + 2 * torch.randn(5, 1, 4, 4)
    both = whole(torch.cat([draw(z), odd]))
    loss = search(both, draw, lambda x: x, torch.zeros(10, 3), Plan(600, 0.02)).loss
    assert loss[:5].max() < 0.5 * loss[5:].mean()


def test_a_search_never_ends_worse_than_it_began_and_more_starts_never_hurt():
    draw, images = linear(), whole(torch.rand(4, 1, 4, 4))
    begin = torch.randn(4, 3)
    at_first = losses(images, draw(begin), lambda x: x, 0.1)
    wild = search(images, draw, lambda x: x, begin, Plan(5, rate=50.0))
    more = search(images, draw, lambda x: x, begin, Plan(5, rate=50.0, starts=4))
    assert (wild.loss <= at_first).all()
    assert (more.loss <= wild.loss).all()


def test_the_loss_is_the_papers_and_leaves_out_what_is_not_covered():
    x, drawn = torch.rand(2, 3, 1, 4, 4)
    w = torch.ones(3, 1, 4, 4)
    w[..., 2:] = 0
    found = losses(with_coverage(x, w), drawn, lambda image: image[:, :1], 0.25)
    gap = (x - drawn).abs() * w
    wanted = 0.75 * gap[..., :2].mean((1, 2, 3)) + 0.25 * gap.mean((1, 2, 3))
    assert torch.allclose(found, wanted)
