"""The guard of build: what is worse than PCA or chance gets no bundle, or one that says so."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from inspect_ai import build, guard, recipe, train
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.bundle import Guarded
from inspect_ai.calibration.conformal import calibrate as conformal
from inspect_ai.errors import WorseThanPCA
from inspect_ai.export import export
from inspect_ai.tracking import Nothing
from inspect_ai.train import Trained
from inspect_ai.training.detector import Detector, Outputs

FIGURES = {
    "images": 400,
    "planted": 400,
    "chance": 0.01,
    "capture": 0.61,
    "pca_capture": 0.35,
    "auroc": 0.9,
}
FIGURES |= {"pca_auroc": 0.8, "psnr": 24.14, "pca_psnr": 26.0, "pca_components": 64}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def found(**fields):
    return Guarded.checked(FIGURES | fields, "a test")


class Changed(Detector):
    """A detector whose score goes through a function, as that of a collapsed one might."""

    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = nn.ModuleList([inner]), change

    @property
    def view(self):
        return self.inner[0].view

    @property
    def classes(self):
        return self.inner[0].classes

    def forward(self, pixels, condition=None):
        said = self.inner[0](pixels, condition)
        return Outputs(self.change(said.pred_score), said.anomaly_map, said.expected)


@pytest.fixture(scope="module")
def refused(products, tmp_path_factory):
    """A line whose training took steps so large that nothing was learnt, and why it is refused."""
    folder = tmp_path_factory.mktemp("refused")
    text = products.run.read_text(encoding="utf-8").replace("steps = 20", "steps = 2")
    text = text.replace("batch_size = 16", "batch_size = 16\nlearning_rate = 30")
    (folder / "run.toml").write_text(text, encoding="utf-8")
    line = replace(products, run=folder / "run.toml", built=folder / "built")
    with pytest.raises(WorseThanPCA) as error:
        build.build(recipe.read(line.run), line.manifest(), line.built, Nothing())
    return line, str(error.value)


def compared(line, change, rate=0.05):
    """What the guard finds where a line's score is changed, calibrated anew."""
    manifest, made = line.manifest(), train.load(line.built / "checkpoint")
    trained = Trained(Changed(made.detector, change).eval(), made.recipe, made.spec)
    pixels = train.given(made.recipe, manifest.good("calibrate"), manifest)
    scores = np.concatenate([trained.detector.score(*batch).pred_score for batch in pixels])
    threshold = conformal(scores, rate).threshold
    promise = {"supported_rate": rate, "supported_threshold": threshold}
    promise |= {"confidence": None, "unit": "image"}
    return guard.compared(trained, promise, manifest)


def test_a_good_model_passes_and_its_card_has_the_figures(maps):
    card = maps.read().card
    assert card.guard is not None
    assert card.guard.doubts == ()
    assert not card.guard.forced
    assert card.guard.images == len(maps.manifest().good("calibrate"))
    assert guard.FEWEST <= card.guard.planted < guard.FEWEST + card.guard.images
    assert card.guard.planted % card.guard.images == 0
    calibration = maps.read().calibration
    assert card.guard.chance == calibration.rank / (len(calibration.good_scores) + 1)
    assert card.guard.chance <= card.false_alarm_rate
    assert card.guard.capture > max(card.guard.chance, card.guard.pca_capture)
    assert card.guard.auroc > 0.8
    assert card.guard.pca_auroc > 0.55  # the patterns can be seen by PCA too
    kept = json.loads((maps.built / guard.KEPT).read_text())["found"]
    assert Guarded.checked(kept, "a test") == card.guard


@pytest.mark.parametrize("line", ["dies", "maps"])
def test_a_constant_score_is_doubted(line, request):
    made = compared(request.getfixturevalue(line), torch.zeros_like)
    assert (made.capture, made.auroc) == (0, 0.5)
    assert f"a score that knows nothing {100 * made.chance:.3g} %" in made.doubts[0]
    assert 0.03 < made.chance <= 0.05


def test_a_score_upside_down_is_doubted_for_three_reasons(maps):
    whole, made = maps.read().card.guard, compared(maps, torch.neg)
    assert made.auroc == pytest.approx(1 - whole.auroc, abs=1e-6)
    assert made.capture < made.chance
    assert len(made.doubts) == 3
    assert (made.pca_auroc, made.psnr) == (whole.pca_auroc, whole.psnr)


def test_a_score_of_noise_is_doubted_where_pca_sees_more(refused):
    made = compared(refused[0], lambda score: torch.frac(score * 1e4))
    assert made.pca_capture > 0.2
    assert "more than chance explains" in made.doubts[-1]


def test_a_score_that_is_not_a_number_on_defects_counts_as_caught(maps):
    largest = maps.read().calibration.good_scores.max() + 1e-3
    made = compared(maps, lambda score: torch.where(score > largest, torch.nan, score))
    assert made.capture == pytest.approx(maps.read().card.guard.capture, abs=0.05)


def test_the_guard_finds_the_same_twice(maps, tmp_path):
    parts = maps.built / "checkpoint", maps.built / "calibration", maps.manifest()
    assert guard.examined(*parts, tmp_path / "again.json") == guard.examined(
        *parts, maps.built / guard.KEPT
    )


def test_what_was_found_is_kept_and_not_looked_for_again(maps, tmp_path):
    parts = maps.built / "checkpoint", maps.built / "calibration", maps.manifest()
    fields = json.loads((maps.built / guard.KEPT).read_text())
    fields["found"]["capture"] = 0.123
    (tmp_path / "kept.json").write_text(json.dumps(fields))
    assert guard.examined(*parts, tmp_path / "kept.json").capture == 0.123
    fields["inputs"]["weights"] = "others"
    (tmp_path / "kept.json").write_text(json.dumps(fields))
    assert guard.examined(*parts, tmp_path / "kept.json").capture != 0.123


def test_a_planted_collapse_is_refused(refused):
    line, message = refused
    assert message.startswith("The trained model would be shipped worse than what it should beat.")
    assert "of 264 caught at the threshold, PCA-64" in message
    assert "more than chance explains" in message
    assert "pass --force to export it all the same" in message
    assert not line.bundle.exists()


def forced(refused, tmp_path, say):
    """The folder of a build that was refused, built again with --force; and what was said."""
    line, out = refused[0], tmp_path / "out"
    shutil.copytree(line.built, out)
    code, told, err = say("build", line.run, "--out", out, "--no-track", "--force")
    assert code == 0, err
    return out, told


def test_what_was_refused_is_exported_by_force_without_another_training(refused, tmp_path, say):
    line = refused[0]
    out, told = forced(refused, tmp_path, say)
    card = bundles.read(out / "bundle").card
    assert card.guard.forced
    for doubt in card.guard.doubts:
        assert f"warning: exported by force. {doubt}" in told
    for path in (out / "checkpoint" / train.WEIGHTS, out / guard.KEPT):
        assert path.stat().st_mtime == (line.built / path.relative_to(out)).stat().st_mtime
    code, again, _ = say("build", line.run, "--out", out, "--no-track")
    assert (code, again.splitlines()[1:]) == (0, told.splitlines()[1:])


def test_without_force_the_command_ends_with_one_message(refused, tmp_path, say):
    shutil.copytree(refused[0].built, tmp_path / "out")
    code, _, err = say("build", refused[0].run, "--out", tmp_path / "out", "--no-track")
    assert (code, err.splitlines()[-1]) == (2, f"error: {refused[1]}")


def test_the_report_of_a_forced_bundle_says_so_in_its_head(refused, maps, tmp_path, say):
    out, _ = forced(refused, tmp_path, say)
    pages = {}
    for bundle, line in ((out / "bundle", refused[0]), (maps.bundle, maps)):
        scan = tmp_path / bundle.parent.name / "scan"
        assert say("scan", bundle, "--spec", line.spec, "--out", scan, "--no-track")[0] == 0
        assert say("report", scan, "--no-track")[0] == 0
        pages[line] = (scan / "report.html").read_text(encoding="utf-8")
    head = pages[refused[0]].split("</header>")[0]
    assert '<span class="chip alarm">exported by force</span>' in head
    assert "The guard refused this detector when it was built" in head
    for doubt in bundles.read(out / "bundle").card.guard.doubts:
        assert doubt in head
    assert "by force" not in pages[maps]


def test_export_alone_says_that_nothing_was_examined(dies, tmp_path, say):
    parts = dies.built / "checkpoint", dies.built / "calibration"
    made = export(*parts, dies.manifest(), tmp_path / "bundle")
    assert bundles.read(made).card.guard is None
    assert guard.told(None) == ["planted defects: not examined"]


def test_a_bundle_from_before_there_was_a_guard_is_read(maps, tmp_path):
    shutil.copytree(maps.bundle, tmp_path / "old")
    card = tmp_path / "old" / bundles.CARD
    fields = json.loads(card.read_text())
    del fields["guard"]
    old = bundles.bound(bundles.Card.checked(fields | {"format": 1}, "card"))
    card.write_text(json.dumps(fields | {"format": 1, "thresholds_hash": old.thresholds_hash}))
    assert bundles.read(tmp_path / "old").card.guard is None


def test_a_build_that_was_finished_before_there_was_a_guard_stays_as_it_is(maps, tmp_path):
    shutil.copytree(maps.built, tmp_path / "out")
    (tmp_path / "out" / guard.KEPT).unlink()
    build.build(recipe.read(maps.run), maps.manifest(), tmp_path / "out", Nothing())
    assert not (tmp_path / "out" / guard.KEPT).exists()


def test_a_conditional_model_is_told_of_planted_images_too(products, tmp_path):
    text = products.run.read_text(encoding="utf-8").replace("autoencoder", "vae")
    told = '[condition]\ncolumns = ["product"]\nvalues = ["contacts-a", "lines-a", "pads-a"]\n\n'
    (tmp_path / "run.toml").write_text(text.replace("[model]", f"{told}[model]"), encoding="utf-8")
    manifest = products.manifest()
    asked = recipe.read(tmp_path / "run.toml")
    made = train.train(asked, manifest, tmp_path / "trained", Nothing())
    calibrated = build.calibrate(made, manifest, tmp_path / "calibrated")
    figures = guard.examined(made, calibrated, manifest, tmp_path / "guard.json")
    assert figures.images == len(manifest.good("calibrate"))
    assert np.isfinite(list(guard.numbers(figures).values())).all()
    assert figures.psnr > 10


def doubts(alone, theirs, **fields):
    """Doubts where so many of 400 planted images are caught by one of the two alone."""
    caught, rivals = np.zeros((2, 400), bool)
    caught[:alone] = rivals[alone : alone + theirs] = True
    return guard._doubts(found(**fields), caught, rivals)


@pytest.mark.parametrize(
    ("alone", "theirs", "doubted"),
    [(0, 0, False), (0, 4, False), (0, 5, True), (1, 7, True), (1, 6, False), (50, 20, False)],
)
def test_pca_must_be_ahead_by_more_than_a_toss_of_coins(alone, theirs, doubted):
    said = doubts(alone, theirs)
    assert bool(said) == doubted
    test = stats.binomtest(theirs, max(1, alone + theirs), alternative="greater")
    assert (test.pvalue <= 0.05) == doubted
    if doubted:
        assert f"PCA-64 35 %: {theirs} that it misses, against {alone} the other way" in said[0]


def test_below_chance_is_below_the_rate_or_a_coin():
    assert not doubts(0, 0, capture=0.01, auroc=0.5)
    assert "knows nothing 1 %" in doubts(0, 0, capture=0.0075)[0]
    assert "score below good ones more often than above" in doubts(0, 0, auroc=0.4999)[0]


def test_redrawing_good_images_worse_than_pca_is_told_and_no_reason_to_refuse():
    said = guard.summary(found(psnr=10.0))
    assert "good images redrawn at 10.0 dB, PCA-64 26.0 dB" in said
    assert not doubts(0, 0, psnr=10.0)


def test_what_passes_is_not_marked_as_forced_though_it_was_asked_for():
    assert guard.passed(found(), force=True) == found()
    with pytest.raises(WorseThanPCA, match=r"61 % of 400 caught .* why not"):
        guard.passed(found(doubts=("why not",)))
    assert guard.passed(found(doubts=("why not",)), force=True).forced


def test_images_are_drawn_of_each_group_as_evenly_as_it_allows():
    sizes = {"a": 50, "b": 5, "c": 1, "d": 50}
    rows = pd.DataFrame({"group": np.repeat(list(sizes), list(sizes.values()))})
    drawn = guard.spread(rows, 26)
    assert drawn["group"].value_counts().to_dict() == {"a": 10, "d": 10, "b": 5, "c": 1}
    assert drawn.index.is_monotonic_increasing
    assert drawn.equals(guard.spread(rows, 26))
    assert guard.spread(rows, 1000).equals(rows)
