import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from inspect_ai.scoring.filters import gaussian
from inspect_ai.scoring.reconstruction import Config, gradient_similarity, ssim
from inspect_ai.scoring.rule import Seen

RULES = ["l1", "l2", "variance", "ssim", "gradient"]
GRID = (16, 20)
ONES = torch.ones(1, 1, *GRID)


def rule(name, channels=1, grid=GRID, **fields):
    return Config(rule=name, **fields).build(channels, grid)


def images(seed=0, channels=1, count=1, grid=GRID):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, *grid, generator=draw)


def covered(x, w=None):
    """Images with their coverage as last channel."""
    return torch.cat([x, torch.ones_like(x[:, :1]) if w is None else w], 1)


@pytest.mark.parametrize("name", RULES)
def test_an_image_as_expected_scores_0(name):
    x = images(channels=3)
    score, anomaly_map = rule(name, 3)(covered(x), Seen(x))
    assert score.item() == pytest.approx(0, abs=1e-5)
    assert anomaly_map.shape == (1, *GRID)


@pytest.mark.parametrize(("name", "wanted"), [("l1", 0.3), ("l2", 0.05)])
def test_the_map_is_the_difference_averaged_over_channels(name, wanted):
    x = torch.cat([torch.full((1, 1, 4, 4), 0.6), torch.full((1, 1, 4, 4), 0.2)], 1)
    expected = torch.cat([torch.full((1, 1, 4, 4), 0.3), torch.full((1, 1, 4, 4), 0.5)], 1)
    expected[:, 1] = 0.2 + {"l1": 0.3, "l2": 0.1}[name]
    _, anomaly_map = rule(name, 2, (4, 4), blur=0)(covered(x), Seen(expected))
    assert anomaly_map.numpy() == pytest.approx(wanted)


def test_blur_spreads_a_point_and_keeps_its_sum():
    x = torch.zeros(1, 1, *GRID)
    x[0, 0, 8, 10] = 1
    _, anomaly_map = rule("l1", blur=1.0)(covered(x), Seen(torch.zeros_like(x)))
    weights = gaussian(1.0)
    wanted = torch.zeros(GRID)
    wanted[5:12, 7:14] = weights[:, None] * weights[None, :]
    assert anomaly_map[0].numpy() == pytest.approx(wanted.numpy(), abs=1e-6)


def test_the_variance_is_learnt_cell_by_cell_over_all_pairs():
    expected = torch.full((3, 1, *GRID), 0.5)
    x = expected.clone()
    x[:, :, :8] += torch.tensor([0.1, -0.2, 0.3]).reshape(3, 1, 1, 1)
    x[:, :, 8:] += torch.tensor([0.3, 0.3, 0.3]).reshape(3, 1, 1, 1)
    found = rule("variance")
    found.fit([(covered(x[:2]), Seen(expected[:2])), (covered(x[2:]), Seen(expected[2:]))])
    assert found.variance[0, 0, :8].numpy() == pytest.approx(0.14 / 3, rel=1e-5)
    assert found.variance[0, 0, 8:].numpy() == pytest.approx(0.09, rel=1e-5)


def test_a_cell_that_never_varied_counts_as_a_tenth_of_the_usual():
    expected = torch.zeros(2, 1, *GRID)
    x = expected.clone()
    x[:, :, :8] = 0.2
    found = rule("variance")
    found.fit([(covered(x), Seen(expected))])
    assert found.variance[0, 0, 8:].numpy() == pytest.approx(0.1 * 0.02, rel=1e-5)


def test_images_weigh_in_the_variance_as_far_as_they_cover_a_cell():
    expected = torch.zeros(2, 1, *GRID)
    x = torch.stack([torch.full((1, *GRID), 0.2), torch.full((1, *GRID), 0.9)])
    coverage = torch.stack([torch.ones(1, *GRID), torch.zeros(1, *GRID)])
    found = rule("variance")
    found.fit([(covered(x, coverage), Seen(expected))])
    assert found.variance.numpy() == pytest.approx(0.04, rel=1e-5)


def test_the_variance_divides_the_squared_difference():
    found = rule("variance", blur=0, pooling={"kind": "max"})
    found.variance.fill_(0.25)
    score, _ = found(covered(torch.full((1, 1, *GRID), 0.5)), Seen(torch.zeros(1, 1, *GRID)))
    assert score.item() == pytest.approx(1.0)


def test_equal_images_have_similarity_1():
    x = images(channels=2)
    assert ssim(x, x, ONES, gaussian(1.5)).numpy() == pytest.approx(1, abs=1e-5)
    assert gradient_similarity(x, x).numpy() == pytest.approx(1, abs=1e-5)


def test_ssim_is_that_of_the_paper_inside_the_picture():
    x, y = images(0), images(1)
    found = ssim(x, y, ONES, gaussian(1.5))[0, 0, 8, 10]
    a, b = (i[0, 0, 3:14, 5:16].double().numpy() for i in (x, y))  # the 11 x 11 window there
    weights = np.outer(*[np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)] * 2)
    weights /= weights.sum()
    ma, mb = (weights * a).sum(), (weights * b).sum()
    va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
    vab = (weights * (a - ma) * (b - mb)).sum()
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * ma * mb + c1) * (2 * vab + c2)
    assert found.item() == pytest.approx(top / ((ma**2 + mb**2 + c1) * (va + vb + c2)), abs=1e-5)


def test_gradient_similarity_is_that_of_the_paper():
    x, y = images(0), images(1)
    across = np.array([[1, 0, -1]] * 3) / 3
    gradients = []
    for image in (x, y):
        plane = image[0, 0].double().numpy()
        sides = [ndimage.correlate(plane, k, mode="nearest") for k in (across, across.T)]
        gradients.append(np.hypot(*sides))
    a, b = gradients
    wanted = (2 * a * b + 0.0026) / (a**2 + b**2 + 0.0026)
    assert gradient_similarity(x, y)[0, 0].numpy() == pytest.approx(wanted, abs=1e-5)


def test_opposite_pictures_are_odd_to_the_last_cell():
    x = images()
    _, anomaly_map = rule("ssim", blur=0)(covered(x), Seen(1 - x))
    assert anomaly_map.min() > 0.5


@pytest.mark.parametrize("name", RULES)
@given(seed=st.integers(0, 999), level=st.floats(0, 1), blur=st.sampled_from([0.0, 1.0, 2.5]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_what_is_not_covered_changes_no_score_and_no_map(name, seed, level, blur):
    x, expected, other_x, other = (images(4 * seed + k, 2, 2) for k in range(4))
    w = (images(seed, 1, 2) > level).float() * images(seed + 1, 1, 2)
    hidden = w == 0
    found = rule(name, 2, blur=blur)
    score, anomaly_map = found(covered(x, w), Seen(expected))
    junk = torch.where(hidden, other, expected)
    again = found(covered(torch.where(hidden, other_x, x), w), Seen(junk))
    assert torch.equal(score, again[0])
    assert torch.equal(anomaly_map, again[1])
    assert (anomaly_map[hidden[:, 0]] == 0).all()


@pytest.mark.parametrize("name", RULES)
def test_a_difference_is_found_where_it_is(name):
    expected = torch.nn.functional.avg_pool2d(images(), 5, 1, 2)
    x = expected.clone()
    x[0, 0, 6:9, 12:15] = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 0, 1.0]])
    _, anomaly_map = rule(name)(covered(x), Seen(expected))
    row, column = divmod(int(anomaly_map[0].argmax()), GRID[1])
    assert abs(row - 7) <= 2
    assert abs(column - 13) <= 2
