from pathlib import Path

import pytest

from inspect_ai import models, recipe
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, MissingData, UnknownModel
from inspect_ai.train import new_detector

ROOT = Path(__file__).parents[1]
RUNS = sorted((ROOT / "pipelines" / "runs").glob("*.toml"))
RUN = """\
data_spec = "spec.toml"
grid = [16, 16]
false_alarm_rate = 0.05
{top}

[model]
name = "autoencoder"
{model}

[score]
rule = "{rule}"
{score}

[budget]
steps = 5
{budget}
"""


@pytest.fixture
def read(tmp_path):
    """Reads a run file with lines added to its tables."""

    def from_text(text=RUN, **added):
        lines = dict.fromkeys(("top", "model", "score", "budget"), "") | {"rule": "l1"} | added
        path = tmp_path / "run.toml"
        path.write_text(text.format(**lines), encoding="utf-8")
        return recipe.read(path)

    return from_text


def test_a_run_file_becomes_a_recipe(read):
    found = read()
    assert (found.grid, found.model["name"], found.score.rule) == ((16, 16), "autoencoder", "l1")
    assert found.budget.steps == 5


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_every_run_file_that_is_shipped_reads_and_builds(path):
    found = recipe.read(path)
    spec = DataSpec.from_toml(ROOT / found.data_spec)
    assert new_detector(found, spec, None).preprocess.view.grid == found.grid


def test_there_are_run_files():
    assert len(RUNS) >= 3


@pytest.mark.parametrize(
    ("where", "line", "wanted"),
    [
        ("top", "colour = 1", r"'colour': unknown key.*false_alarm_rate, grid"),
        ("model", "widht = 8", r"'widht': unknown key.*latent.*width"),
        ("score", "blurr = 1.0", r"'score.blurr': unknown key.*blur, pooling, rule"),
        ("score", "pooling = { sahre = 0.1 }", r"'score.pooling.sahre': unknown key.*kind, share"),
        ("budget", "step = 3", r"'budget.step': unknown key.*batch_size.*steps"),
    ],
)
def test_an_unknown_key_is_refused_with_those_beside_it(read, where, line, wanted):
    with pytest.raises(BadSettings, match=wanted):
        read(**{where: line})


@pytest.mark.parametrize(
    ("where", "line", "wanted"),
    [
        ("top", "held_out = 1.0", "'held_out'.*less than 1"),
        ("top", "held_out = nan", "'held_out'"),
        ("model", "width = 2", "'width'.*greater than or equal to 4, got 2"),
        ("model", 'variant = "vae"', "'variant'.*'masked'"),
        ("score", "blur = inf", "'score.blur'.*finite"),
        ("score", "pooling = { share = 0 }", "'score.pooling.share'.*greater than 0"),
        ("budget", "learning_rate = inf", "'budget.learning_rate'.*finite"),
        ("budget", "seed = 9223372036854775807", "'budget.seed'.*less than"),
    ],
)
def test_a_value_out_of_range_is_refused(read, where, line, wanted):
    with pytest.raises(BadSettings, match=wanted):
        read(**{where: line})


def test_the_structure_rule_has_nothing_to_set(read):
    with pytest.raises(BadSettings, match=r"'score.blur': unknown key. Known keys beside it: rule"):
        read(rule="structure", score="blur = 1.0")


def test_an_unknown_rule_is_refused_with_those_there_are(read):
    with pytest.raises(
        BadSettings, match="'l1', 'l2', 'variance', 'ssim', 'gradient', 'structure'"
    ):
        read(rule="l3")


def test_a_score_without_a_rule_is_told_the_rules(read):
    text = RUN.replace('rule = "{rule}"\n', "")
    with pytest.raises(BadSettings, match=r"'score.rule': missing. Add it: one of .*structure"):
        read(text)


def test_an_unknown_model_is_refused_with_those_there_are(read):
    with pytest.raises(UnknownModel, match=f"No model 'vea'.*{models.names()[0]}"):
        read(RUN.replace('"autoencoder"', '"vea"'))


def test_a_model_without_a_name_is_told_the_names(read):
    with pytest.raises(BadSettings, match=r"\[model\] needs a name: one of .*autoencoder"):
        read(RUN.replace('name = "autoencoder"\n', ""))


def test_turning_needs_a_square_grid(read):
    with pytest.raises(BadSettings, match="turn = true needs a square grid"):
        read(RUN.replace("[16, 16]", "[16, 32]"), top="turn = true")
    assert read(top="turn = true").turn


def test_a_missing_run_file_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"none\.toml"):
        recipe.read(tmp_path / "none.toml")


def spec(**image):
    layout = {"kind": "stack", "file": "m.npz"} if image else {"kind": "files"}
    given = {"name": "x", "root": ".", "source": "a test", "licence": "none", "layout": layout}
    return DataSpec.checked(given | {"image": image}, "a test")


def test_the_structure_rule_refuses_pictures_and_says_what_to_use(read):
    structure = read(rule="structure")
    with pytest.raises(BadSettings, match="needs wafer maps; use ssim or gradient for pictures"):
        new_detector(structure, spec(), None)
    new_detector(structure, spec(kind="wafer_map"), None)
    new_detector(read(rule="ssim"), spec(), None)


def test_equal_recipes_share_a_hash_and_others_do_not(read):
    assert read().hash() == read().hash()
    assert read().hash() != read(budget="seed = 1").hash()
    assert read().hash() != read(model="latent = 3").hash()
