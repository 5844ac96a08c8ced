import pytest
import torch

from inspect_ai.adversarial.generators import GROWN, Sizes, generator
from inspect_ai.adversarial.growth import Stage, doubled
from inspect_ai.adversarial.style import Mapping, Modulated
from inspect_ai.errors import BadSettings

KINDS = ["dcgan", "progressive", "laplacian", "style"]
SMALL = Sizes(latent=5, width=4, depth=2)


def made(kind, grid=(48, 20), channels=1, classes=0, sizes=SMALL):
    torch.manual_seed(0)
    return generator(kind, sizes, channels, grid, classes).eval()


def codes(count=6, latent=5, seed=1):
    return torch.randn(count, latent, generator=torch.Generator().manual_seed(seed))


def reached(net):
    return {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}


def loud(net):
    """The generator with noise of a strength that tells."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("strength"):
                p.fill_(0.5)
    return net


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("grid", "channels"), [((32, 32), 1), ((48, 20), 3), ((4, 8), 1)])
def test_codes_become_images_between_0_and_1(kind, grid, channels):
    found = made(kind, grid, channels)(codes())
    assert found.shape == (6, channels, *grid)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_generator_is_far_from_black_and_white_and_no_two_codes_look_alike(kind):
    logits = torch.logit(made(kind, (32, 32), sizes=Sizes())(codes(32, 64)).double())
    assert logits.abs().max() < 5
    assert logits.std(0).mean() > 0.05


def test_a_coarser_level_has_more_channels_but_at_most_eight_times_the_width():
    assert Sizes(width=4, depth=5).widths == [32, 32, 32, 16, 8, 4]
    assert Sizes(width=6, depth=1).widths == [12, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_that_cannot_be_halved_is_refused(kind):
    with pytest.raises(BadSettings, match=r"30 x 32 cannot be halved 2 times.*multiples of 4"):
        generator(kind, SMALL, 1, (30, 32))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_the_same_alone_as_in_a_batch_and_the_same_twice(kind):
    net, z = loud(made(kind)), codes()
    alone = torch.cat([net(each[None]) for each in z])
    assert torch.allclose(net(z), alone, atol=1e-5)
    assert torch.equal(net(z), net(z))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter_that_makes_the_image(kind):
    net = made(kind, classes=2).train()
    condition = torch.tensor([0, 1] * 3)
    (net(codes(), condition) - 0.1).square().sum().backward()
    names = {name for name, _ in net.named_parameters()}
    unused = {n for n in names if kind == "progressive" and n.startswith(("heads.0", "heads.1"))}
    assert reached(net) == names - unused
    if kind in GROWN:
        net(codes(), condition, Stage(1, 0.5)).sum().backward()
        assert {"heads.0.weight", "heads.1.weight"} <= reached(net)


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_changes_with_the_class(kind):
    net, z = made(kind, classes=3), codes()
    first, second = (net(z, torch.full((6,), k)) for k in (0, 2))
    assert (first - second).abs().amax((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("kind", GROWN)
@pytest.mark.parametrize("level", [1, 2])
def test_a_level_that_begins_to_fade_in_changes_nothing(kind, level):
    net, z = made(kind), codes()
    before = doubled(net(z, stage=Stage(level - 1, 1.0)))
    assert torch.equal(net(z, stage=Stage(level, 0.0)), before)
    step = (net(z, stage=Stage(level, 1e-3)) - before).abs().max()
    assert 0 < step < 1e-2
    assert not torch.allclose(net(z, stage=Stage(level, 1.0)), before, atol=1e-2)


@pytest.mark.parametrize("kind", GROWN)
def test_a_stage_has_the_grid_of_its_level_and_the_last_is_the_whole(kind):
    net, z = made(kind), codes()
    shapes = [tuple(net(z, stage=Stage(level, 1.0)).shape[2:]) for level in range(3)]
    assert shapes == [(12, 5), (24, 10), (48, 20)]
    assert torch.equal(net(z, stage=Stage(2, 1.0)), net(z))


@pytest.mark.parametrize("kind", ["dcgan", "style"])
def test_a_kind_that_does_not_grow_has_no_stage(kind):
    with pytest.raises(AssertionError):
        made(kind)(codes(), stage=Stage(1, 1.0))


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_demodulation_gives_unit_variance_for_unit_variance_whatever_the_style(spread):
    torch.manual_seed(0)
    mix = Modulated(16, 64, styles=8)
    y = mix(torch.randn(8, 16, 24, 24), spread * torch.randn(8, 8))[:, :, 1:-1, 1:-1]
    assert y.var((1, 2, 3)).tolist() == pytest.approx([1.0] * 8, abs=0.15)


@pytest.mark.parametrize("doubles", [False, True])
def test_a_modulated_convolution_is_each_images_own_kernel(doubles):
    torch.manual_seed(0)
    mix, x, styles = Modulated(3, 4, 5, doubles), torch.randn(2, 3, 6, 4), torch.randn(2, 5)
    for i, found in enumerate(mix(x, styles)):
        kernel = mix.weight * mix.style(styles[i])[None, :, None, None]
        kernel = kernel / kernel.square().sum((1, 2, 3), keepdim=True).sqrt()
        seen = doubled(x[i : i + 1]) if doubles else x[i : i + 1]
        wanted = torch.nn.functional.conv2d(seen, kernel, padding=1)[0]
        assert torch.allclose(found, wanted, atol=1e-4)


def test_the_length_of_a_code_has_no_say_in_its_style():
    torch.manual_seed(0)
    mapping, z = Mapping(64, 8), codes(4, 64)
    assert torch.allclose(mapping(z), mapping(7 * z), atol=1e-4)


def test_noise_is_fresh_in_training_and_still_afterwards():
    net, z = loud(made("style")), codes(1).repeat(2, 1)
    assert torch.allclose(net(z)[0], net(z)[1], atol=1e-5)
    net.train()
    assert not torch.allclose(net(z)[0], net(z)[1], atol=1e-3)
    assert not torch.allclose(net(z)[0], net(z)[0], atol=1e-3)


def test_still_noise_is_the_same_in_every_generator_and_differs_between_levels():
    torch.manual_seed(1)
    one, other = made("style"), generator("style", SMALL, 1, (48, 20))
    buffers = dict(one.named_buffers())
    assert len(buffers) == 3
    for name, still in other.named_buffers():
        assert torch.equal(still, buffers[name])
    coarse, fine = (layer.noise.still for layer in one.body.layers[:2])
    assert not torch.equal(coarse, fine[..., :12, :5])


@pytest.mark.parametrize("kind", KINDS)
def test_other_codes_and_other_weights_give_other_images(kind):
    net = made(kind)
    other = generator(kind, SMALL, 1, (48, 20)).eval()
    assert not torch.allclose(net(codes()), net(codes(seed=2)), atol=1e-2)
    assert not torch.allclose(net(codes()), other(codes()), atol=1e-2)
