import numpy as np
import pytest
import torch
from made_vectors import Given, fit, images, vectors
from sklearn import decomposition

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.models.pca import Config
from inspect_ai.training.budget import Budget
from inspect_ai.training.descent import Run


@pytest.mark.parametrize(("count", "channels"), [(200, 1), (25, 1), (120, 3)])
def test_the_expectation_is_scikit_learns_redraw(count, channels):
    good, new = images(count, channels=channels), images(9, channels=channels, seed=1)
    made = fit(Config(components=4).build(channels, (6, 5)), good)
    reference = decomposition.PCA(4, svd_solver="full").fit(vectors(good))
    wanted = reference.inverse_transform(reference.transform(vectors(new)))
    found = made(new).expected.flatten(1).numpy()
    np.testing.assert_allclose(found, wanted.clip(0, 1), atol=1e-5)


def test_what_lies_in_the_plane_is_redrawn_and_what_is_square_to_it_is_lost():
    made = fit(Config(components=3).build(1, (6, 5)), images(100))
    plane = made.mean + 0.1 * torch.randn(5, 3) @ made.directions
    torch.testing.assert_close(made.redraw(plane), plane, atol=1e-6, rtol=1e-5)
    away = torch.randn(5, 30)
    away -= away @ made.directions.T @ made.directions
    torch.testing.assert_close(made.redraw(plane + away), plane, atol=1e-5, rtol=1e-4)


def test_as_many_components_as_numbers_redraw_everything():
    new = images(5, (2, 2), seed=1)
    made = fit(Config(components=4).build(1, (2, 2)), images(50, (2, 2)))
    torch.testing.assert_close(made(new).expected, new[:, :-1], atol=1e-5, rtol=0)


def test_the_first_direction_of_two_cells_by_hand():
    x = torch.tensor([[0.2, 0.4], [0.5, 0.5], [0.8, 0.6]]).reshape(3, 1, 1, 2)  # along (3, 1)
    made = fit(Config(components=1).build(1, (1, 2)), torch.cat([x, torch.ones_like(x)], 1))
    torch.testing.assert_close(made.directions.abs(), torch.tensor([[3.0, 1.0]]) / 10**0.5)
    new = torch.tensor([0.5, 0.7]).reshape(1, 1, 1, 2)  # (0, 0.2) from the mean: 0.06 along
    found = made(torch.cat([new, torch.ones_like(new)], 1)).expected.flatten()
    torch.testing.assert_close(found, torch.tensor([0.56, 0.52]))


def test_with_blur_the_plane_is_that_of_smoothed_images():
    flat = fit(Config(components=1, blur=2.0).build(1, (8, 8)), images(60, (8, 8)))
    expected = flat(images(1, (8, 8), seed=5)).expected[0, 0]
    sharp = fit(Config(components=1).build(1, (8, 8)), images(60, (8, 8)))
    assert expected.diff(dim=0).std() < 0.5 * sharp.mean.reshape(8, 8).diff(dim=0).std()


def test_a_half_covered_cell_is_expected_at_its_own_level_and_an_uncovered_one_at_0():
    coverage = torch.tensor([1.0, 0.5, 0.0]).repeat(4, 1)
    batch = images(40, (4, 3), coverage=coverage)
    batch[:, 0] = 0.6 + 0.01 * torch.randn(40, 4, 3)
    expected = fit(Config(components=2).build(1, (4, 3)), batch)(batch).expected[:, 0]
    assert (expected[:, :, 2] == 0).all()
    torch.testing.assert_close(
        expected[:, :, :2].mean((0, 1)), torch.tensor([0.6, 0.6]), atol=0.01, rtol=0
    )


def test_what_is_not_covered_has_no_say():
    coverage = (torch.rand(6, 5) > 0.3).float()
    known = images(50, coverage=coverage)
    junk = torch.where(coverage > 0, known, 0.9)
    junk[:, -1:] = known[:, -1:]
    made = Config(components=3, blur=1.0)
    one, two = (fit(made.build(1, (6, 5)), batch) for batch in (known, junk))
    assert torch.equal(one(known).expected, two(junk).expected)


def test_more_components_than_numbers_are_refused_and_the_advice_works():
    with pytest.raises(BadSettings, match=r"components = 31.*at most 30. Ask for fewer"):
        Config(components=31).build(1, (6, 5))
    Config(components=30).build(1, (6, 5))
    Config(components=31).build(1, (6, 6))


def test_too_few_images_are_refused_and_the_advice_works():
    made = Config(components=4).build(1, (6, 5))
    with pytest.raises(MissingData, match=r"4 different image.*components = 4; .*least 5\. Ask"):
        fit(made, images(4).repeat(5, 1, 1, 1))  # the same again does not help
    fit(made, images(5))
    fit(Config(components=3).build(1, (6, 5)), images(4))


def test_the_fit_sees_the_images_of_the_first_steps():
    class Counted(Given):
        def first(self, steps):
            assert steps == 7
            return super().first(steps)

    Config(components=2).build(1, (6, 5)).fit(
        Counted(images(20)), Run(Budget(steps=7), lambda *_: None)
    )
