"""The net that figures are measured on: always the same, and blind to what is not covered."""

import numpy as np
import pytest
import torch
from made_nets import graph
from onnx import TensorProto

from inspect_ai.errors import BadSettings, MissingData
from inspect_ai.judging.compare import orientations
from inspect_ai.judging.features import OnnxNet, RandomConvolutions, unit


def images(count=4, size=(16, 20), channels=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(count, channels, *size, generator=draw)
    return torch.cat([x, torch.ones(count, 1, *size)], 1)


def test_the_net_is_the_same_in_every_process():
    found = RandomConvolutions(1).features(images(1))[0]
    assert found.shape == (226,)
    again = RandomConvolutions(1).features(images(1))[0]
    np.testing.assert_array_equal(found, again)
    # of this image, recorded: figures of other days must be comparable
    assert found[2:5] == pytest.approx((0.142166, 0.158942, 0.148049), rel=1e-3)


@pytest.mark.parametrize(("size", "channels"), [((5, 9), 1), ((12, 12), 3), ((33, 17), 2)])
def test_an_image_has_the_same_features_alone_as_in_a_batch(size, channels):
    net, batch = RandomConvolutions(channels), images(5, size, channels)
    every = net.features(batch)
    assert every.shape == (5, 2 * channels + 224)
    np.testing.assert_allclose(net.features(batch[3:4])[0], every[3], rtol=1e-4, atol=1e-6)


def test_what_is_not_covered_and_where_a_canvas_ends_changes_nothing():
    net, batch = RandomConvolutions(1), images()
    batch[:, 1, :, 12:] = 0
    other = batch.clone()
    other[:, 0, :, 12:] = 9
    np.testing.assert_array_equal(net.features(other), net.features(batch))
    wide = torch.zeros(4, 2, 32, 32)
    wide[:, :, :16, :20] = batch
    np.testing.assert_allclose(net.features(wide), net.features(batch), rtol=1e-4, atol=1e-5)


def test_an_even_image_has_one_texture_however_it_is_covered():
    even = images(2)
    even[:, 0] = 0.6
    even[1, 1] = (torch.arange(20) < 9).float()
    a, b = RandomConvolutions(1).features(even)
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert a[0] == pytest.approx(0.6)


def test_an_image_without_any_coverage_has_features_that_are_numbers():
    none = torch.zeros(1, 2, 8, 8)
    assert np.isfinite(RandomConvolutions(1).features(none)).all()


def test_textures_are_told_apart():
    net, fine = RandomConvolutions(1), images(30, (16, 16))
    coarse = images(30, (16, 16), seed=1)
    small = torch.nn.functional.avg_pool2d(coarse[:, :1], 2)
    coarse[:, :1] = torch.nn.functional.interpolate(small, scale_factor=2)
    a, b, c = (net.features(x) for x in (fine, images(30, (16, 16), seed=2), coarse))

    def told(x, y):
        return np.abs(x.mean(0) - y.mean(0)) / np.sqrt(x.var(0) + y.var(0) + 1e-9)

    assert (told(a, b) > 1).mean() == 0
    assert (told(a, c) > 1).mean() > 0.3
    assert told(a, c)[0] < 1  # both are as bright


def test_a_feature_that_hardly_varies_is_measured_in_a_tenth_of_the_usual_deviation():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1000, 3)) * [1.0, 2.0, 1e-5]
    found = unit(features)
    usual = np.sqrt(features.var(0).mean())
    assert found == pytest.approx([1, 2, usual / 10], rel=0.06)
    assert unit(np.ones((5, 3))).tolist() == [1, 1, 1]


def test_the_orientations_are_eight_and_begin_with_the_own():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    found = orientations(image)
    assert found.shape == (8, 1, 1, 3, 3)
    assert torch.equal(found[0], image)
    assert len({tuple(way.flatten().tolist()) for way in found}) == 8


# nets of others


@pytest.mark.parametrize("flat", [True, False])
def test_features_of_a_net_of_fixed_size_are_those_of_the_resized_image(tmp_path, flat):
    net = OnnxNet(graph(tmp_path / "net.onnx", ["n", 3, 8, 10], flat))
    batch = images(70)
    found = net.features(batch)
    assert (net.name, net.raw) == ("net.onnx", True)
    assert found.shape == (70, 3)
    wanted = batch[:, 0].mean((1, 2))  # grey, three times over; resizing keeps the mean
    np.testing.assert_allclose(found, wanted[:, None].expand(-1, 3), atol=5e-3)


def test_a_net_of_any_size_is_given_the_image_and_nothing_of_what_is_not_covered(tmp_path):
    net = OnnxNet(graph(tmp_path / "net.onnx", ["n", 1, "h", "w"]))
    batch = images(3, channels=3)
    batch[:, -1, :8] = 0
    np.testing.assert_allclose(
        net.features(batch)[:, 0], batch[:, :3, 8:].mean((1, 2, 3)) / 2, rtol=1e-5
    )


@pytest.mark.parametrize("shape", [["n", 2, 8, 8], ["n", 3, 8], [4, 3, 8, 8]])
def test_a_net_that_asks_for_something_else_is_refused_with_what_is_needed(tmp_path, shape):
    with pytest.raises(BadSettings, match=r"needed is one input \(N, 3 or 1, H, W\)"):
        OnnxNet(graph(tmp_path / "net.onnx", shape, flat=False))


def test_a_net_of_whole_numbers_is_refused(tmp_path):
    path = graph(tmp_path / "net.onnx", ["n", 3, 8, 8], flat=False, kind=TensorProto.UINT8)
    with pytest.raises(BadSettings, match="float"):
        OnnxNet(path)


def test_a_file_that_is_no_net_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_text("a text")
    with pytest.raises(BadSettings, match="not a graph that ONNX Runtime can run"):
        OnnxNet(tmp_path / "net.onnx")
    with pytest.raises(MissingData, match="No file"):
        OnnxNet(tmp_path / "other.onnx")
