import pytest

from inspect_ai.training.collapse import doubts


@pytest.mark.parametrize(
    ("told", "word"),
    [
        ({"active_units": 0.0, "kl_nats": 0.0}, "lower beta"),
        ({"codes_used": 1.0}, "fewer codes"),
        ({"sample_diversity": 0.08}, "another objective"),
    ],
)
def test_a_code_that_nothing_moves_is_doubted_with_what_to_do(told, word):
    (doubt,) = doubts(told)
    assert "collapse" in doubt
    assert word in doubt


@pytest.mark.parametrize(
    "told",
    [{}, {"active_units": 1.0}, {"codes_used": 2.0}, {"noise": 0.0}, {"sample_diversity": 0.4}],
)
def test_a_code_in_use_is_not(told):
    assert doubts(told) == []
