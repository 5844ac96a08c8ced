import pytest
import torch

from inspect_ai.scoring.pooling import Pooling

MAP = torch.arange(100.0).reshape(1, 10, 10)
ALL = torch.ones_like(MAP)


def pooled(coverage=ALL, **fields):
    return Pooling(**fields).build()(MAP * coverage, coverage).tolist()


def test_max_is_the_largest_cell():
    assert pooled(kind="max") == [99]


def test_top_is_the_mean_of_the_largest_share():
    assert pooled(kind="top", share=0.04) == [97.5]


def test_top_takes_a_cell_at_least():
    assert pooled(kind="top", share=0.0001) == [99]


def test_top_of_all_is_the_mean():
    assert pooled(kind="top", share=1.0) == [pytest.approx(49.5)]


def test_mean_is_over_what_is_covered():
    coverage = torch.zeros_like(MAP)
    coverage[0, 9] = 1
    assert pooled(coverage, kind="mean") == [94.5]


def test_nothing_covered_scores_0():
    for kind in ("max", "top", "mean"):
        assert pooled(torch.zeros_like(MAP), kind=kind) == [0]


def test_each_image_is_pooled_by_itself():
    two = torch.stack([MAP[0], 2 * MAP[0]])
    assert Pooling(kind="max").build()(two, torch.ones_like(two)).tolist() == [99, 198]
