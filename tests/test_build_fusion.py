"""One build makes a fusion and its members."""

import numpy as np
import pandas as pd
import pytest
import torch

from inspect_ai import build, recipe, train
from inspect_ai.bundle import bundle as bundles
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.errors import MissingData, ParityFailed
from inspect_ai.export import export
from inspect_ai.tracking import Nothing

pytestmark = pytest.mark.slow  # builds
FUSION = """\
data_spec = "{spec}"
false_alarm_rate = 0.05
members = ["one.toml", "two.toml"]

[model]
name = "fusion"
curve_share = {share}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def asked(maps, folder, share=0.5):
    text = maps.run.read_text(encoding="utf-8")
    (folder / "one.toml").write_text(text, encoding="utf-8")
    fields = 'name = "autoencoder"\nwidth = 4\ndepth = 2\nlatent = 4'
    (folder / "two.toml").write_text(text.replace(fields, 'name = "wafer_statistics"'))
    path = folder / "both.toml"
    path.write_text(FUSION.format(spec=maps.spec.as_posix(), share=share), encoding="utf-8")
    return recipe.read(path)


@pytest.fixture(scope="module")
def built(maps, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion")
    made = asked(maps, folder)
    build.build(made, maps.manifest(), folder / "out", Nothing())
    return made, folder / "out"


def test_the_bundle_scores_as_the_fusion_does(built, maps):
    _, out = built
    pixels = np.load(maps.root / "maps.npz")["maps"][:12, None]
    bundle = bundles.read(out / "bundle")
    torch_scores = train.load(out / "checkpoint").detector.score(pixels)
    onnx_scores = Scorer(bundle, "cpu").score(pixels)
    spread = bundle.calibration.good_scores.std()
    np.testing.assert_allclose(onnx_scores.pred_score, torch_scores.pred_score, atol=1e-3 * spread)
    assert (bundle.card.model, bundle.card.calibration_images) == ("fusion", len(threshold(out)))


def threshold(out):
    return pd.read_parquet(out / "calibration" / "calibration.parquet")


def test_curves_and_threshold_share_no_lot_and_leave_no_wafer_out(built, maps):
    made, out = built
    manifest = maps.manifest()
    curves, rest = train.yardsticks(made, manifest)
    assert not set(curves["group"]) & set(rest["group"])
    assert sorted(threshold(out)["image_id"]) == sorted(rest["image_id"])
    assert len(curves) + len(rest) == len(manifest.good("calibrate"))


def test_a_member_that_is_trained_is_not_trained_again(built, maps, tmp_path, monkeypatch):
    made = asked(maps, tmp_path)
    stopped = []

    def killed(*arguments):
        if arguments[0].model["name"] == "wafer_statistics" and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return fit(*arguments)

    fit = train._fit
    monkeypatch.setattr(train, "_fit", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(made, maps.manifest(), tmp_path / "out", Nothing())
    first = tmp_path / "out" / "1_autoencoder" / "weights.safetensors"
    before = first.stat().st_mtime_ns
    train.train(made, maps.manifest(), tmp_path / "out", Nothing())
    assert first.stat().st_mtime_ns == before
    again, once = (
        train.load(p).detector.state_dict() for p in (tmp_path / "out", built[1] / "checkpoint")
    )
    assert all(torch.equal(again[name], once[name]) for name in once)


def test_the_steps_can_be_called_alone(built, maps, tmp_path):
    _, out = built
    manifest = maps.manifest()
    changed = {"false_alarm_rate": 0.1}
    made = build.calibrate(out / "checkpoint", manifest, tmp_path / "calibration", changed)
    try:
        bundle = bundles.read(export(out / "checkpoint", made, manifest, tmp_path / "bundle"))
    except ParityFailed as error:
        pytest.fail(str(error))
    assert bundle.card.false_alarm_rate == 0.1
    assert bundle.card.image_threshold < bundles.read(out / "bundle").card.image_threshold


def test_too_few_good_wafers_for_the_curves_are_refused_before_any_work(maps, tmp_path):
    made = asked(maps, tmp_path, share=0.1)
    with pytest.raises(MissingData, match=r"for the curves of a fusion, needed are 20"):
        build.build(made, maps.manifest(), tmp_path / "out", Nothing())
    assert not (tmp_path / "out").exists()
