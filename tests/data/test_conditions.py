import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inspect_ai.data.conditions import UNKNOWN, Condition
from inspect_ai.errors import BadSettings, MissingData

TABLE = pd.DataFrame({"product": ["A", "B", "A", None], "layer": ["M1", "M1", "M2", "M1"]})


def test_a_value_is_its_place_in_the_list():
    found = Condition(columns=("product",), values=("B", "A")).places(TABLE)
    assert found.tolist() == [1, 0, 1, UNKNOWN]


def test_several_columns_are_joined_by_a_slash():
    found = Condition(columns=("product", "layer"), values=("A/M1", "B/M1")).places(TABLE)
    assert found.tolist() == [0, 1, UNKNOWN, UNKNOWN]


def test_numbers_are_known_by_how_they_are_written():
    table = pd.DataFrame({"recipe": [7, 8, 9]})
    assert Condition(columns=("recipe",), values=("8", "7")).places(table).tolist() == [1, 0, -1]


def test_learning_from_a_value_that_is_not_listed_is_refused_with_those_there_are():
    with pytest.raises(MissingData, match=r"1 image.* product 'B', which .* \('A'\)\. Add them"):
        Condition(columns=("product",), values=("A",)).require(TABLE[:3])


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(MissingData, match=r"no column tool\. Scan through a data spec"):
        Condition(columns=("product", "tool"), values=("A/1",)).places(TABLE)


@pytest.mark.parametrize("fields", [{"values": ["A", "A"]}, {"columns": ["product", "product"]}])
def test_a_name_that_comes_twice_is_refused(fields):
    with pytest.raises(BadSettings, match="twice; drop one"):
        Condition.checked({"columns": ["product"], "values": ["A", "B"]} | fields, "run.toml")


@given(st.lists(st.text(), max_size=20), st.lists(st.text(), min_size=1, max_size=5, unique=True))
def test_a_place_always_names_the_value_it_came_from(said, values):
    condition = Condition(columns=("c",), values=tuple(values))
    places = condition.places(pd.DataFrame({"c": pd.Series(said, dtype="string")}))
    for text, place in zip(said, places, strict=True):
        assert (values[place] == text) if place != UNKNOWN else text not in values


def test_whole_numbers_with_a_gap_are_read_as_they_are_written():
    table = pd.DataFrame({"layer": [1.0, None, 2.0]})
    assert Condition(columns=("layer",), values=("1", "2")).places(table).tolist() == [0, -1, 1]
    fine = pd.DataFrame({"layer": [1.5, 2.0]})
    assert Condition(columns=("layer",), values=("1.5", "2")).places(fine).tolist() == [0, 1]


def test_a_listed_value_without_an_image_is_refused_by_name():
    condition = Condition(columns=("product",), values=("A", "B", "C"))
    with pytest.raises(MissingData, match=r"list 'C', and no good image to train on is of that"):
        condition.require_each(TABLE[:3], "train on")
    Condition(columns=("product",), values=("A", "B")).require_each(TABLE[:3], "train on")


def test_other_conditions_have_another_name():
    condition = Condition(columns=("product",), values=("A", "B"))
    assert condition.hash(TABLE) == condition.hash(TABLE.copy())
    assert condition.hash(TABLE) != condition.hash(TABLE.assign(product="A"))
