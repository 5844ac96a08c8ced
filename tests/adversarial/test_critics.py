import copy
import logging
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from inspect_ai.adversarial.critics import Critic, Encoder, Spectral
from inspect_ai.adversarial.generators import Sizes, generator
from inspect_ai.adversarial.growth import Stage, shrunk
from inspect_ai.errors import BadSettings

GRID = (48, 20)
SMALL = Sizes(latent=5, width=4, depth=2)
ALL_KINDS = ["dcgan", "progressive", "laplacian", "style"]


def critic(grid=GRID, channels=1, **fields):
    torch.manual_seed(0)
    return Critic(SMALL, channels, grid, **fields).eval()


def encoder(grid=GRID, channels=1, classes=0):
    torch.manual_seed(0)
    return Encoder(SMALL, channels, grid, classes).eval()


def images(grid=GRID, count=6, channels=1):
    draw = torch.Generator().manual_seed(1)
    covered = (torch.rand(count, 1, *grid, generator=draw) > 0.2).float()
    return torch.cat([torch.rand(count, channels, *grid, generator=draw), covered], 1)


def largest(weight):
    return float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))


@pytest.mark.parametrize(("grid", "channels"), [((32, 32), 1), (GRID, 3), ((4, 8), 1)])
@pytest.mark.parametrize("spectral", [False, True])
def test_shapes_of_logits_features_and_codes(grid, channels, spectral):
    net, batch = critic(grid, channels, spectral=spectral), images(grid, channels=channels)
    assert net(batch).shape == (6,)
    assert net.features(batch).shape == (6, 16, grid[0] // 4, grid[1] // 4)
    assert encoder(grid, channels)(batch).shape == (6, 5)


def test_a_grid_that_cannot_be_halved_is_refused():
    for kind in (Critic, Encoder):
        with pytest.raises(BadSettings, match="cannot be halved 2 times"):
            kind(SMALL, 1, (48, 22))


@pytest.mark.parametrize("fields", [{}, {"spectral": True}, {"classes": 3}, {"code": 5}])
def test_an_untrained_critic_is_of_two_minds(fields):
    torch.manual_seed(3)
    net = Critic(Sizes(), 1, (32, 32), **fields)
    told = {"condition": torch.arange(6) % 3} if "classes" in fields else {}
    told |= {"code": torch.randn(6, 5)} if "code" in fields else {}
    logits = net(images((32, 32)), **told)
    assert logits.abs().max() < 5
    assert logits.std() > 1e-3


def test_what_is_not_covered_has_no_say():
    batch = images()
    junk = torch.cat([torch.where(batch[:, -1:] > 0, batch[:, :-1], 0.9), batch[:, -1:]], 1)
    assert torch.equal(critic()(batch), critic()(junk))
    assert torch.equal(critic().features(batch), critic().features(junk))
    assert torch.equal(encoder()(batch), encoder()(junk))
    for stage in (Stage(1, 0.5), Stage(2, 0.5)):
        seen, other = (shrunk(b, 2 - stage.level) for b in (batch, junk))
        assert torch.equal(critic()(seen, stage=stage), critic()(other, stage=stage))


@pytest.mark.parametrize("fields", [{"spectral": True}, {"classes": 3}, {"code": 5}])
def test_an_image_is_judged_the_same_alone_as_in_a_batch(fields):
    net, batch, k, z = critic(**fields), images(), torch.arange(6) % 3, torch.randn(6, 5)

    def judged(part):
        return net(
            batch[part],
            k[part] if net.condition is not None else None,
            code=z[part] if net.code is not None else None,
        )

    alone = torch.cat([judged(slice(i, i + 1)) for i in range(6)])
    assert torch.allclose(judged(slice(None)), alone, atol=1e-5)


def test_a_logit_is_linear_in_the_features_with_a_term_of_the_class():
    net, batch, k = critic(classes=3), images(), torch.tensor([0, 1, 2, 0, 1, 2])
    phi = net.features(batch).flatten(1)
    wanted = phi @ net.psi.weight[0] + net.psi.bias + (net.condition.weight[k] * phi).sum(1)
    assert torch.allclose(net(batch, k), wanted, atol=1e-5)
    assert (net(batch, k) - net(batch, (k + 1) % 3)).abs().min() > 1e-4


def test_a_joint_critic_judges_the_code_with_the_image():
    net, batch = critic(code=5), images()
    one, other = torch.randn(2, 6, 5)
    assert (net(batch, code=one) - net(batch, code=other)).abs().min() > 1e-4
    assert not torch.allclose(net.features(batch, code=one), net.features(batch, code=other))
    gaps = [net(b, code=one) - net(b, code=other) for b in (batch, batch.flip(2))]
    assert not torch.allclose(*gaps, atol=1e-4)  # the pair, not a sum of two opinions


def test_a_code_changes_with_the_class():
    net, batch = encoder(classes=3), images()
    first, second = (net(batch, torch.full((6,), k)) for k in (0, 2))
    assert (first - second).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("level", [1, 2])
def test_a_level_that_begins_to_fade_in_changes_no_logit(spectral, level):
    net, batch = critic(spectral=spectral), shrunk(images(), 2 - level)
    before = net(shrunk(batch, 1), stage=Stage(level - 1, 1.0))
    assert torch.equal(net(batch, stage=Stage(level, 0.0)), before)
    assert not torch.allclose(net(batch, stage=Stage(level, 1.0)), before, atol=1e-4)
    step = (net(batch, stage=Stage(level, 1e-4)) - before).abs().max()
    assert 0 < step < 1e-3


def test_the_last_stage_is_the_whole_critic():
    assert torch.equal(critic()(images(), stage=Stage(2, 1.0)), critic()(images()))


def test_the_gradient_reaches_every_parameter_that_judges():
    net = critic(classes=2, code=5, spectral=True).train()
    net(images(), torch.arange(6) % 2, code=torch.randn(6, 5)).square().sum().backward()
    coarser = {
        n for n, _ in net.named_parameters() if n.startswith(("trunk.enter.0", "trunk.enter.1"))
    }
    still = {n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == coarser
    net(shrunk(images(), 1), torch.arange(6) % 2, Stage(1, 0.5), torch.randn(6, 5)).sum().backward()
    assert all(p.grad is not None for _, p in net.named_parameters())
    reader = encoder(classes=2).train()
    reader(images(), torch.arange(6) % 2).square().sum().backward()
    assert all(p.grad.any() for p in reader.parameters())


@pytest.mark.parametrize("spectral", [False, True])
def test_the_slope_in_the_image_can_itself_be_lowered(spectral):
    net = critic(spectral=spectral).train()
    batch = images()
    x = batch[:, :-1].clone().requires_grad_()

    def steepness():
        judged = net(torch.cat([x, batch[:, -1:]], 1)).sum()
        (slope,) = torch.autograd.grad(judged, x, create_graph=True)
        return slope.square().sum((1, 2, 3)).mean()

    adam = torch.optim.Adam(net.parameters(), 1e-3)
    before = steepness()
    for _ in range(5):
        adam.zero_grad()
        steepness().backward()
        adam.step()
    assert steepness() < before


def test_spectral_weights_have_a_largest_singular_value_of_1_also_where_a_code_is_judged():
    net = critic(classes=3, code=5, spectral=True).train()
    for _ in range(60):
        net(images(count=2), torch.tensor([0, 1]), code=torch.randn(2, 5))
    net.eval()
    layers = [net.last, net.psi, net.condition, net.code[0], net.code[2], *net.trunk.down]
    sizes = [largest(layer.weight) for layer in [*layers, net.trunk.enter[-1]]]
    assert sizes == pytest.approx([1.0] * len(sizes), abs=0.02)
    assert all(isinstance(m.parametrizations["weight"][0], Spectral) for m in layers)


def test_random_weights_of_a_spectral_critic_are_not_far_from_it():
    net = critic(spectral=True)
    for layer in (net.last, net.psi, *net.trunk.down):
        assert largest(layer.weight) == pytest.approx(1.0, abs=0.1)


def test_a_spectral_critic_looks_twice_before_the_gradient_is_taken():
    net = critic(spectral=True).train()
    (net(images()).mean() - net(images().flip(2)).mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_a_spectral_critic_is_still_when_it_does_not_train_and_survives_being_saved():
    net, batch = critic(spectral=True).train(), images()
    for _ in range(3):
        net(batch)
    net.eval()
    kept = copy.deepcopy(net.state_dict())
    first = net(batch)
    assert torch.equal(net(batch), first)
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())
    torch.manual_seed(9)
    other = Critic(SMALL, 1, GRID, spectral=True).eval()
    other.load_state_dict(kept)
    assert torch.equal(other(batch), first)
    assert torch.equal(copy.deepcopy(net)(batch), first)


def test_running_means_of_a_spectral_critic_keep_the_singular_value():
    """A mean of unit vectors is shorter than 1, and must not make the weights larger."""
    net = critic(spectral=True).train()
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    means = copy.deepcopy(net.state_dict())
    for step in range(60):
        adam.zero_grad()
        (net(images()).mean() - net(images().flip(2)).mean()).backward()
        adam.step()
        for key, value in net.state_dict().items():
            means[key].lerp_(value, 1 - min(0.9, (step + 1) / (step + 10)))
    net.load_state_dict(means)
    net.eval()
    lengths = [float(v.norm()) for k, v in means.items() if k.endswith(".v")]
    assert min(lengths) < 0.999
    for layer in (net.last, net.psi, *net.trunk.down):
        assert largest(layer.weight) == pytest.approx(1.0, abs=0.1)


class Whole(nn.Module):
    """What detectors export: the image redrawn, a logit, and features; by every kind at once."""

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(SMALL, 1, GRID, classes)
        self.generators = nn.ModuleList(generator(k, SMALL, 1, GRID, classes) for k in ALL_KINDS)
        self.critic = Critic(SMALL, 1, GRID, classes, spectral=True, code=SMALL.latent)

    def forward(self, batch, condition):
        z = self.encoder(batch, condition)
        redrawn = torch.stack([draw(z, condition) for draw in self.generators], 1)
        again = torch.cat([redrawn[:, 0], batch[:, -1:]], 1)
        return (
            redrawn,
            self.critic(batch, condition, code=z),
            self.critic.features(again, condition, z),
        )


@pytest.mark.slow
def test_the_exported_graph_says_what_torch_says_for_any_number_of_images():
    whole, batch = Whole(classes=3).train(), images()
    whole(batch, torch.arange(6) % 3)  # one look in training: power iteration, fresh noise
    for name, p in whole.named_parameters():
        if name.endswith("strength"):
            p.data.fill_(0.5)
    free = {0: torch.export.Dim.DYNAMIC}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole.eval(),
            (batch[:2], torch.arange(2)),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=20,
            input_names=["batch", "condition"],
            dynamic_shapes={"batch": free, "condition": free},
        )
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    for count in (1, 5):
        given = {"batch": batch[:count].numpy(), "condition": np.arange(count) % 3}
        found = session.run(None, {name: given[name] for name in names})
        with torch.no_grad():
            wanted = whole(batch[:count], torch.arange(count) % 3)
        for ours, theirs in zip(wanted, found, strict=True):
            assert np.abs(ours.numpy() - theirs).max() < 1e-5
