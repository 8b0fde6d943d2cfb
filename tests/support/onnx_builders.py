"""Small ONNX graphs, written node by node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import helper, numpy_helper

make = helper.make_node


class Builder:
    """Collects nodes and weights of one graph; every method returns the name of its output."""

    def __init__(self, shape=("N", 8, "H", "W"), dtype=np.float32, seed=0):
        self.shape, self.dtype = shape, dtype
        self.nodes, self.weights, self.inputs = [], {}, {"x": shape}
        self._random = np.random.default_rng(seed)
        self._count = 0

    def name(self, stem="v"):
        self._count += 1
        return f"{stem}{self._count}"

    def weight(self, values, name=None):
        name = name or self.name("w")
        self.weights[name] = np.asarray(values)
        return name

    def normal(self, *shape, scale=0.2):
        return self.weight((self._random.standard_normal(shape) * scale).astype(self.dtype))

    def op(self, kind, *inputs, outputs=1, **attributes):
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(make(kind, list(inputs), names, name=f"{kind}_{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x, inputs, outputs, kernel=3, *, pads=None, group=1, bias=True, **attributes):
        pads = [kernel // 2] * 4 if pads is None else pads
        more = [self.normal(outputs)] if bias else []
        weight = self.normal(outputs, inputs // group, kernel, kernel)
        return self.op("Conv", x, weight, *more, pads=pads, group=group, **attributes)

    def up(self, x, rows=2, columns=2, mode="nearest", **attributes):
        scales = self.weight(np.array([1, 1, rows, columns], np.float32))
        modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", **attributes}
        return self.op("Resize", x, "", scales, mode=mode, **modes)

    def model(self, *outputs, opset=17, ir_version=8, functions=(), domains=()):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [
                helper.make_tensor_value_info(name, kind, shape)
                if shape is not None
                else helper.make_value_info(name, helper.make_tensor_type_proto(kind, None))
                for name, shape in self.inputs.items()
            ],
            [
                helper.make_tensor_value_info(name, kind, [f"{name}.{axis}" for axis in range(4)])
                for name in outputs or [self.nodes[-1].output[0]]
            ],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        proto = helper.make_model(
            graph, opset_imports=imports, ir_version=ir_version, functions=list(functions)
        )
        return ir.from_proto(proto)
