import numpy as np
import onnxruntime
import pytest
import torch

from inspect_ai.training.causal import Causal

SIZES = [(1, 3), (2, 3), (4, 3), (2, 5)]  # layers, kernel


def net(layers=3, kernel=3, inside=2, context=0):
    torch.manual_seed(0)
    return Causal(inside, 5, 8, layers, kernel, context).double()


def slope(made, place, shape=(19, 21), context=None):
    """What moves the output at a place: (h, w) booleans."""
    x = torch.randn(1, 2, *shape, dtype=torch.float64).requires_grad_()
    made(x, context)[0, :, place[0], place[1]].square().sum().backward()
    return x.grad[0].abs().sum(0) > 0


@pytest.mark.parametrize(("layers", "kernel"), SIZES)
@pytest.mark.parametrize("place", [(0, 0), (0, 6), (9, 0), (12, 10), (18, 20)])
def test_a_cell_hears_of_every_cell_before_it_within_reach_and_of_none_after(layers, kernel, place):
    made = net(layers, kernel)
    reach = made.reach
    row, column = torch.arange(19)[:, None] - place[0], torch.arange(21)[None, :] - place[1]
    above = (row < 0) & (row >= -reach - 1) & (column.abs() <= reach)
    beside = (row == 0) & (column < 0) & (column >= -reach)
    assert torch.equal(slope(made, place), above | beside)


def test_a_cell_hears_of_its_context_everywhere_within_reach_that_is_not_after_it():
    made = net(2, context=3)
    context = torch.randn(1, 3, 19, 21, dtype=torch.float64).requires_grad_()
    made(torch.randn(1, 2, 19, 21, dtype=torch.float64), context)[0, :, 9, 9].sum().backward()
    felt = context.grad[0].abs().sum(0) > 0
    assert felt[9, 9]
    assert felt[9, 8]
    assert felt[8, 10]
    assert not felt[9, 10:].any()
    assert not felt[10:].any()


def test_one_layer_of_a_sum_by_hand():
    made = Causal(1, 1, 1, 1, kernel=1)
    layer = made.layers[0]
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
        layer.vertical.weight[:] = torch.tensor([0.5, 1.0]).reshape(2, 1, 1, 1)
        layer.horizontal.weight[:] = torch.tensor([1.0, 0.0]).reshape(2, 1, 1, 1)
        layer.link.weight[:] = torch.tensor([2.0, 0.0]).reshape(2, 1, 1, 1)
        layer.mix.weight.fill_(1.0)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    _, h = layer(x, x, None, None)
    above = np.tanh(1.5) / (1 + np.exp(-3.0))  # v of the cell above, which sees 1 + 2
    wanted = np.tanh(3.0 + 2 * above) * 0.5
    assert h[0, 0, 1, 1].item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (3, 7), (11, 8), (12, 0), (12, 14)])
def test_peeking_at_a_cell_says_the_same_as_looking_at_all(place):
    made = net(3, context=2)
    x, context = (torch.randn(2, 2, 13, 15, dtype=torch.float64) for _ in range(2))
    mask = (torch.rand(2, 1, 13, 15) > 0.2).double()
    whole = made(x * mask, context, mask)[:, :, place[0], place[1]]
    torch.testing.assert_close(made.peek(x * mask, context, mask, place), whole)


@pytest.mark.parametrize("pad", [(0, 4, 0, 3), (5, 0, 2, 0)])
def test_a_canvas_around_masked_cells_changes_nothing(pad):
    made = net(3, context=2)
    mask = (torch.rand(2, 1, 9, 8) > 0.3).double()
    x, context = (torch.randn(2, 2, 9, 8, dtype=torch.float64) * mask for _ in range(2))
    larger = [torch.nn.functional.pad(part, pad) for part in (x, context, mask)]
    left, _, top, _ = pad
    found = made(*larger)[:, :, top : top + 9, left : left + 8]
    torch.testing.assert_close(found * mask, made(x, context, mask) * mask)


@pytest.mark.filterwarnings("ignore")  # of the exporter's own code
def test_exports_to_a_graph_of_any_size(tmp_path):
    made = net(2, context=1).float().eval()
    parts = [torch.randn(2, 2, 9, 8), torch.randn(2, 1, 9, 8), torch.ones(2, 1, 9, 8)]
    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.onnx.export(
        made, tuple(parts), dynamo=True, verbose=False, dynamic_shapes=[free, free, free]
    )
    program.save(str(tmp_path / "net.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    larger = [torch.randn(3, 2, 5, 12), torch.randn(3, 1, 5, 12), torch.ones(3, 1, 5, 12)]
    for given in (parts, larger):
        named = {i.name: p.numpy() for i, p in zip(session.get_inputs(), given, strict=True)}
        with torch.no_grad():
            wanted = made(*given).numpy()
        np.testing.assert_allclose(session.run(None, named)[0], wanted, atol=1e-6)
