"""Small ONNX nets that stand for nets of others."""

import onnx
from onnx import TensorProto, helper


def graph(path, shape, flat=True, kind=TensorProto.FLOAT):
    """A net of one layer: means over the image, or the image itself as a map of features."""
    node = (
        helper.make_node("ReduceMean", ["image", "axes"], ["out"], keepdims=0)
        if flat
        else helper.make_node("Identity", ["image"], ["out"])
    )
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
    made = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("out", kind, None)],
        [axes] if flat else [],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path
