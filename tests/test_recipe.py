from pathlib import Path

import pytest

from inspect_ai import models, recipe
from inspect_ai.assembly import new_detector
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings, MissingData, UnknownModel

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
    assert new_detector(found, spec, None).view.grid == found.grid


def test_there_are_run_files():
    assert len(RUNS) >= 3


@pytest.mark.parametrize(
    ("where", "line", "wanted"),
    [
        ("top", "colour = 1", r"'colour': unknown key.*false_alarm_rate, first_stage, grid"),
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


def test_an_unknown_rule_is_refused_with_those_there_are(read):
    with pytest.raises(BadSettings, match="'l1', 'l2', 'variance', 'ssim', 'gradient', 'density'"):
        read(rule="l3")


def test_a_score_without_a_rule_is_told_the_rules(read):
    text = RUN.replace('rule = "{rule}"\n', "")
    with pytest.raises(
        BadSettings, match=r"'score.rule': missing. Add it: one of adversarial, density.*variance"
    ):
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


MORAN = 'statistics = ["moran"]'


def test_a_rule_of_dies_refuses_pictures_and_says_what_to_use(read):
    moran = read(rule="density", score=MORAN)
    with pytest.raises(BadSettings, match=r"'density' needs wafer maps.*l2, ssim and gradient"):
        new_detector(moran, spec(), None)
    new_detector(moran, spec(kind="wafer_map"), None)


def test_a_model_of_dies_refuses_pictures(read):
    found = read(RUN.replace('"autoencoder"', '"wafer_statistics"'))
    with pytest.raises(BadSettings, match="model 'wafer_statistics' needs wafer maps"):
        new_detector(found, spec(), None)


def test_a_rule_refuses_a_model_that_does_not_give_what_it_needs(read):
    with pytest.raises(BadSettings, match="needs surprise, which model 'autoencoder' does not"):
        new_detector(read(rule="likelihood"), spec(), None)
    with pytest.raises(BadSettings, match="'odds' needs odds, which model 'autoencoder' does not"):
        new_detector(read(rule="odds"), spec(), None)


def test_a_rule_of_a_grid_refuses_a_model_that_sees_dies(read):
    for name in ("denoiser", "wafer_statistics"):
        found = read(RUN.replace('"autoencoder"', f'"{name}"'), rule="ssim")
        with pytest.raises(BadSettings, match=f"'ssim' is one of a grid, and model '{name}' sees"):
            new_detector(found, spec(kind="wafer_map"), None)


FUSION = """\
data_spec = "spec.toml"
false_alarm_rate = 0.05
members = ["one.toml", "two.toml"]
[model]
name = "fusion"
"""


@pytest.fixture
def members(tmp_path):
    """Two run files, beside which the fusion is written."""
    for name, rule in (("one", "l1"), ("two", "ssim")):
        text = RUN.format(top="", model="", rule=rule, score="", budget="")
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")


def test_a_fusion_holds_its_members_as_values(read, members):
    found = read(FUSION)
    assert [member.rule for member in found.members] == ["l1", "ssim"]
    assert (found.grid, found.score, found.steps) == ((16, 16), None, 10)
    assert found.rule == "p-values of autoencoder + l1, autoencoder + ssim"
    assert recipe.Recipe.checked(found.model_dump(mode="json"), "again") == found
    new_detector(found, spec(), None)


def test_another_seed_and_a_limit_reach_every_member(read, members):
    found, alone = read(FUSION).seeded(7, seconds=60), read().seeded(3, seconds=60)
    assert [(m.budget.seed, m.budget.seconds) for m in found.members] == [(7, 30), (7, 30)]
    assert found.budget.seed == 7  # other lots for the curves, too
    assert (alone.budget.seed, alone.budget.seconds) == (3, 60)
    assert alone.seeded(3, seconds=90).budget.seconds == 60  # the run file's own limit stays
    assert found.hash() != read(FUSION).hash()


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ('"two.toml"', '"none.toml"', r"none\.toml"),
        ('"two.toml"', "3", "names of other run files beside it"),
        ('"fusion"', '"autoencoder"', "'members' and .* need each other"),
        (
            'members = ["one.toml", "two.toml"]\n',
            "grid = [16, 16]\nbudget.steps = 1\n",
            "each other",
        ),
        ('["one.toml", "two.toml"]', "3", "names of other run files"),
        ('"two.toml"', '"../b/two.toml"', "names of other run files"),
        ('"two.toml"', '"run.toml"', "names of other run files"),
        ("[model]", "turn = true\n[model]", "belong to the members"),
        ("spec.toml", "other.toml", "every member needs the data_spec"),
        ("[model]", '[score]\nrule = "l1"\n[model]', "'members', which have their own"),
    ],
)
def test_a_fusion_that_does_not_fit_together_is_refused(read, members, old, new, wanted):
    with pytest.raises((BadSettings, MissingData), match=wanted):
        read(FUSION.replace(old, new))


def test_a_fusion_of_fusions_is_refused(read, members, tmp_path):
    (tmp_path / "both.toml").write_text(FUSION, encoding="utf-8")
    with pytest.raises(BadSettings, match="may not be a fusion; list its members"):
        read(FUSION.replace("two.toml", "both.toml"))


def test_a_run_file_without_a_score_is_told_so(read):
    with pytest.raises(BadSettings, match=r"needs \[score\] with a rule"):
        read(RUN.replace('[score]\nrule = "{rule}"\n{score}\n', ""))


LATENT = RUN.replace('"autoencoder"', '"latent_diffusion"')
STAGE = RUN.replace('"autoencoder"', '"vqvae"')


@pytest.fixture
def stage(tmp_path):
    """Writes the run file of a first stage, beside which the latent model's is written."""

    def write(text=STAGE, name="stage.toml", **added):
        lines = dict.fromkeys(("top", "model", "score", "budget"), "") | {"rule": "l2"} | added
        (tmp_path / name).write_text(text.format(**lines), encoding="utf-8")

    write()
    return write


FIRST = 'first_stage = "stage.toml"'


def test_a_latent_model_holds_its_first_stage_as_a_value(read, stage):
    found = read(LATENT, top=FIRST)
    assert (found.first_stage.model["name"], found.steps) == ("vqvae", 10)
    assert recipe.Recipe.checked(found.model_dump(mode="json"), "again") == found
    model = new_detector(found, spec(), None).model
    assert model.stage.latent == (16, 4, 4)
    assert found.hash() != read(LATENT, top=FIRST, budget="batch_size = 8").hash()
    stage(model="width = 8")
    assert found.hash() != read(LATENT, top=FIRST).hash()


def test_another_seed_and_a_limit_reach_the_first_stage(read, stage):
    found = read(LATENT, top=FIRST).seeded(7, seconds=60)
    for part in (found, found.first_stage):
        assert (part.budget.seed, part.budget.seconds) == (7, 30)
    assert read(LATENT, top=FIRST).seeded(7).first_stage.budget.seconds is None


def test_a_run_file_from_before_there_were_first_stages_keeps_its_name(read):
    name = "c98fefa8462823362e285fec3ae411f757b046a8fa6dee7ea42d6fd266600f6d"
    assert read().hash() == name


@pytest.mark.parametrize(
    ("text", "top", "wanted"),
    [
        (LATENT, "", "'first_stage' and .* need each other; add first_stage"),
        (RUN, FIRST, "'first_stage' and .* need each other"),
        (LATENT, 'first_stage = "none.toml"', r"none\.toml"),
        (LATENT, "first_stage = 3", "name of another run file beside it, got 3"),
        (LATENT, 'first_stage = "run.toml"', "name of another run file beside it"),
        (LATENT, f"{FIRST}\nturn = true", "has turn = False, needed is True"),
        (LATENT, f"{FIRST}\nheld_out = 0.3", "has held_out = 0.15, needed is 0.3"),
        (LATENT.replace("[16, 16]", "[32, 32]"), FIRST, r"grid = \(16, 16\), needed is \(32, 32\)"),
        (LATENT.replace('"spec.', '"other.'), FIRST, "data_spec = spec.toml, needed is other.toml"),
        (LATENT + "seed = 3", FIRST, "budget.seed = 0, needed is 3"),
    ],
)
def test_a_first_stage_that_does_not_fit_is_refused(read, stage, text, top, wanted):
    with pytest.raises((BadSettings, MissingData), match=wanted):
        read(text, top=top)


TOLD = 'condition.columns = ["product"]\ncondition.values = ["a", "b"]'


def test_a_first_stage_is_told_the_same_condition_or_none(read, stage):
    told = f"{FIRST}\n{TOLD}"
    assert new_detector(read(LATENT, top=told), spec(), None).classes == 2
    stage(top=TOLD, text=STAGE.replace("vqvae", "vae"))
    assert new_detector(read(LATENT, top=told), spec(), None).model.stage.classes == 2
    with pytest.raises(BadSettings, match=r"told this \[condition\] or none; make them equal"):
        read(LATENT, top=FIRST)


def test_a_model_without_codes_is_no_first_stage_and_the_advice_works(read, stage):
    for name, fields in (("autoencoder", ""), ("vae", "levels = 2")):
        stage(text=STAGE.replace("vqvae", name), model=fields)
        with pytest.raises(
            BadSettings, match=r"without a map of codes\. Write first_stage = .*vqvae"
        ):
            new_detector(read(LATENT, top=FIRST), spec(), None)
    stage(text=STAGE.replace("vqvae", "vae"), model="levels = 1\nskip = 0\nspatial = true")
    new_detector(read(LATENT, top=FIRST), spec(), None)


def test_a_first_stage_of_a_first_stage_is_refused(read, stage, tmp_path):
    stage(name="inner.toml")
    stage(text=LATENT, top='first_stage = "inner.toml"')
    with pytest.raises(BadSettings, match="a first stage codes images itself"):
        read(LATENT, top=FIRST)
    stage(text=LATENT, top='first_stage = "run.toml"')
    with pytest.raises(BadSettings, match=r"run.toml names itself, through .*stage.toml"):
        read(LATENT, top=FIRST)
