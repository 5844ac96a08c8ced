import numpy as np
import pytest
import torch
from made_detectors import bin_maps, fitted, map_detector, picture_detector

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.models.fusion import Config
from inspect_ai.scoring.rarity import rarity


def nats(scores, knots, slopes):
    made = [torch.from_numpy(np.asarray(a, np.float32)) for a in (scores, knots, slopes)]
    return rarity(made[0][:, None], made[1][None], made[2][None])[:, 0].numpy()


@pytest.fixture(scope="module")
def fusion():
    pixels, labels = bin_maps()
    return fitted(map_detector("fusion"), pixels[labels == "none"][:240])


def test_the_score_is_the_sum_of_the_members_nats_and_the_map_their_mean(fusion):
    pixels = torch.from_numpy(bin_maps()[0][-8:])
    with torch.no_grad():
        said, out = [member(pixels) for member in fusion.members], fusion(pixels)
    each = [nats(s.pred_score, fusion.knots[k], fusion.slopes[k]) for k, s in enumerate(said)]
    assert out.pred_score.numpy() == pytest.approx(sum(each), rel=1e-4)
    maps = [s.anomaly_map / peak for s, peak in zip(said, fusion.peaks, strict=True)]
    assert torch.allclose(out.anomaly_map, sum(maps) / 2)
    assert torch.equal(out.expected, said[0].expected)


def test_too_few_good_images_for_the_curves_are_refused_with_what_to_do():
    with pytest.raises(MissingData, match=r"12 good image.*needed are 20.*curve_share"):
        map_detector("fusion").fit([bin_maps()[0][:12]])
    with pytest.raises(MissingData, match="0 good image"):
        map_detector("fusion").fit([])


def test_one_member_is_refused():
    with pytest.raises(BadSettings, match="two members or more, got 1"):
        Config().build([map_detector("wafer_statistics")])


def test_members_on_pictures_need_one_grid():
    pair = [picture_detector("autoencoder", grid=(side, side)) for side in (16, 32)]
    with pytest.raises(BadSettings, match="one grid, got 16 x 16, 32 x 32"):
        Config().build(pair)
