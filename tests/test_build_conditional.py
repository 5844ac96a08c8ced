"""A conditional model from the run file to the verdict: the product travels beside the pixels."""

import json
import shutil

import numpy as np
import onnx
import pandas as pd
import pytest

from inspect_ai import build, recipe
from inspect_ai.bundle.runtime import Scorer
from inspect_ai.data import manifest as manifests
from inspect_ai.data.manifest import Manifest
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadImages, BadSettings, MissingData, OutputInUse
from inspect_ai.tracking import Nothing

pytestmark = pytest.mark.slow  # builds
PRODUCTS = ["contacts-a", "lines-a", "pads-a"]


def run_file(products, path, values=PRODUCTS, model="vae", column="product"):
    text = products.run.read_text(encoding="utf-8").replace("autoencoder", model)
    told = f"[condition]\ncolumns = {json.dumps([column])}\nvalues = {json.dumps(values)}\n\n"
    path.write_text(text.replace("[model]", f"{told}[model]"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(products, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    asked = recipe.read(run_file(products, folder / "run.toml"))
    return folder, build.build(asked, products.manifest(), folder / "built", Nothing(), force=True)


def test_the_graph_asks_for_the_condition_and_the_card_says_what_it_means(built):
    graph = onnx.load(built[1] / "model.onnx").graph
    assert [i.name for i in graph.input] == ["input", "condition"]
    card = json.loads((built[1] / "bundle.json").read_text(encoding="utf-8"))
    assert card["condition"] == {"columns": ["product"], "values": PRODUCTS}
    assert card["parity"]["verdicts_flipped"] == 0


def test_figures_of_the_model_are_kept_and_its_pictures_drawn(built):
    record = json.loads((built[0] / "built/checkpoint/run.json").read_text(encoding="utf-8"))
    assert record["told"]["latent_units"] == 4
    assert 0 <= record["told"]["active_units"] <= 4
    made = {p.name for p in (built[0] / "built/checkpoint/pictures").glob("*.png")}
    assert {"samples.png", "traversal.png"} <= made


def test_a_scan_tells_the_model_each_images_product(built, products, say):
    code, out, err = say(
        "scan", built[1], "--spec", products.spec, "--out", built[0] / "scan", "--no-track"
    )
    assert code == 0, err
    assert "0 rejected" in out
    scores = pd.concat(map(pd.read_parquet, sorted((built[0] / "scan/scores").glob("*.parquet"))))
    assert scores["product"].nunique() == 3
    assert len(scores) == len(products.manifest().table)


def test_an_image_of_a_product_the_model_never_saw_is_rejected_by_name(
    built, products, say, tmp_path
):
    shutil.copytree(products.root, tmp_path / "data")
    table = pd.read_csv(products.root / "manifest.csv")
    table.loc[0, "product"] = "new-product"
    table.to_csv(tmp_path / "data/manifest.csv", index=False)
    spec = products.spec.read_text(encoding="utf-8")
    text = spec.replace(products.root.as_posix(), (tmp_path / "data").as_posix())
    (tmp_path / "spec.toml").write_text(text, encoding="utf-8")
    code, _, err = say(
        "scan", built[1], "--spec", tmp_path / "spec.toml", "--out", tmp_path / "s", "--no-track"
    )
    assert code == 0, err
    rejected = pd.read_parquet(tmp_path / "s/rejected.parquet")
    assert len(rejected) == 1
    assert "product is 'new-product', and the model knows" in rejected["reason"].iloc[0]


def test_images_of_which_nobody_knows_the_product_are_refused_before_any_work(built, products, say):
    code, _, err = say("scan", built[1], products.root, "--out", built[0] / "never")
    assert code != 0
    assert "The model is told product of each image" in err
    assert not (built[0] / "never").exists()


def test_a_product_that_the_run_file_does_not_list_is_refused_before_any_work(products, tmp_path):
    asked = recipe.read(run_file(products, tmp_path / "run.toml", PRODUCTS[:2]))
    manifest = manifests.make(DataSpec.from_toml(products.spec))
    with pytest.raises(MissingData, match=r"product '.*', which \[condition\] values do not list"):
        build.build(asked, manifest, tmp_path / "built", Nothing())
    assert not (tmp_path / "built").exists()


def test_a_model_that_cannot_be_told_is_refused_with_those_that_can(products, tmp_path):
    asked = recipe.read(run_file(products, tmp_path / "run.toml", model="autoencoder"))
    with pytest.raises(BadSettings, match=r"cannot be told a \[condition\].*vae"):
        build.build(asked, products.manifest(), tmp_path / "built", Nothing())


def test_a_listed_product_without_images_is_refused_before_any_work(products, tmp_path):
    asked = recipe.read(run_file(products, tmp_path / "run.toml", [*PRODUCTS, "pads-b"]))
    with pytest.raises(MissingData, match="values list 'pads-b', and no good image to train on"):
        build.build(asked, products.manifest(), tmp_path / "built", Nothing())
    assert not (tmp_path / "built").exists()


def test_corrected_products_are_other_work(built, products):
    asked, manifest = recipe.read(built[0] / "run.toml"), products.manifest()
    swapped = {PRODUCTS[0]: PRODUCTS[1], PRODUCTS[1]: PRODUCTS[0]}
    table = manifest.table.assign(product=manifest.table["product"].replace(swapped))
    other = Manifest(table, manifest.spec, manifest.root)
    with pytest.raises(OutputInUse):
        build.build(asked, other, built[0] / "built", Nothing())


@pytest.mark.parametrize("places", [None, [0], [0, -1], [0, 3]])
def test_a_scorer_asks_for_a_known_product_of_each_image(built, places):
    scorer, pixels = Scorer(built[1], "cpu"), np.zeros((2, 1, 32, 32), np.uint8)
    with pytest.raises(BadImages, match=r"needed one in 0 \.\. 2 for each of 2 images"):
        scorer.score(pixels, None if places is None else np.array(places))
    assert np.isfinite(scorer.score(pixels, np.array([0, 2])).pred_score).all()
