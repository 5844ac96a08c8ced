import pytest
import torch

from inspect_ai.errors import BadSettings
from inspect_ai.scoring.likelihood import Config
from inspect_ai.scoring.pooling import Pooling
from inspect_ai.scoring.rule import Seen
from inspect_ai.settings import Settings


def pair(coverage=None):
    """Two images of 3 x 4 cells with surprises from -5 to 6, and the coverage."""
    surprise = torch.stack([torch.arange(-5.0, 7.0), torch.arange(12.0)]).reshape(2, 3, 4)
    w = torch.ones(2, 1, 3, 4) if coverage is None else coverage.expand(2, 1, 3, 4)
    return torch.cat([torch.rand(2, 1, 3, 4), w], 1), Seen(torch.rand(2, 1, 3, 4), surprise)


def rule(**fields):
    return Config(rule="likelihood", **fields).build(1, (3, 4))


def test_the_score_is_the_sum_of_the_surprise():
    score, anomaly_map = rule()(*pair())
    assert score.tolist() == [6.0, 66.0]
    assert torch.equal(anomaly_map, pair()[1].surprise)


def test_a_cell_without_coverage_counts_in_the_sum_but_is_not_shown():
    coverage = torch.ones(3, 4)
    coverage[2, 3] = 0
    score, anomaly_map = rule()(*pair(coverage))
    assert score.tolist() == [6.0, 66.0]  # what the model dealt out is kept whole
    assert anomaly_map[:, 2, 3].tolist() == [0.0, 0.0]
    assert anomaly_map[1, 0, 1] == 1


@pytest.mark.parametrize(
    ("pooling", "wanted"),
    [
        (Pooling(kind="max"), [6.0, 11.0]),
        (Pooling(kind="top", share=0.25), [5.0, 10.0]),
        (Pooling(kind="mean"), [0.5, 5.5]),
    ],
)
def test_with_pooling_the_odd_cells_count(pooling, wanted):
    assert rule(pooling=pooling)(*pair())[0].tolist() == pytest.approx(wanted)


def test_with_pooling_a_cell_without_coverage_never_wins():
    coverage = torch.ones(3, 4)
    coverage[2] = 0
    assert rule(pooling=Pooling(kind="max"))(*pair(coverage))[0].tolist() == [2.0, 7.0]


def test_it_needs_a_model_that_says_how_surprised_it_is():
    assert rule().needs == ("surprise",)


def test_an_unknown_key_is_refused_with_those_there_are():
    class Run(Settings):
        score: Config

    with pytest.raises(BadSettings, match=r"unknown key. Known keys beside it: pooling, rule"):
        Run.checked({"score": {"rule": "likelihood", "blur": 1.0}}, "run.toml")
