"""Likelihoods from the run file to the checkpoint."""

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from inspect_ai import recipe, train
from inspect_ai.assembly import new_detector
from inspect_ai.data.specs import DataSpec
from inspect_ai.errors import BadSettings
from inspect_ai.tracking import Nothing

PPCA = '[model]\nname = "ppca"\ncomponents = 4\n\n[score]\nrule = "likelihood"\n'


def rewritten(line, path, middle):
    """The line's run file with another model and rule."""
    text = line.run.read_text(encoding="utf-8")
    head, tail = text.split("[model]")[0], text.split("[budget]")[1]
    path.write_text(f"{head}{middle}\n[budget]{tail}", encoding="utf-8")
    return recipe.read(path)


@pytest.fixture(scope="module")
def trained(dies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ppca")
    asked = rewritten(dies, folder / "run.toml", PPCA)
    return train.train(asked, dies.manifest(), folder / "checkpoint", Nothing())


def test_a_sum_of_nats_is_told_from_the_mean_of_good_images(trained, dies):
    detector = train.load(trained).detector
    assert detector.rule.centre.abs() > 10
    assert detector.rule.centre.dtype.itemsize == 8  # thousands of nats, of which tens matter


def test_a_checkpoint_from_before_sums_were_centred_still_loads(trained):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    today = train.load(trained).detector
    tensors = load_file(trained / train.WEIGHTS)
    try:
        old = {k: v for k, v in tensors.items() if k not in train.LEARNT_LATER}
        assert len(old) == len(tensors) - len(train.LEARNT_LATER)
        save_file(old, trained / train.WEIGHTS)
        before = train.load(trained).detector.score(pixels).pred_score
    finally:
        save_file(tensors, trained / train.WEIGHTS)
    wanted = today.score(pixels).pred_score + float(today.rule.centre)
    assert before == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("pooling", ['pooling = { kind = "top" }', 'kind = "slope"'])
def test_a_share_of_the_canvas_is_refused_for_a_model_of_dies(maps, tmp_path, pooling):
    middle = f'[model]\nname = "pixelcnn"\noutput = "binary"\n\n[score]\nrule = "likelihood"\n{pooling}\n'
    asked = rewritten(maps, tmp_path / "run.toml", middle)
    with pytest.raises(BadSettings, match="pooled by max or mean"):
        new_detector(asked, DataSpec.from_toml(maps.spec), None)
    whole = rewritten(maps, tmp_path / "run.toml", middle.replace(pooling, ""))
    new_detector(whole, DataSpec.from_toml(maps.spec), None)
