"""The executed graph of a network of FBNet, without building a module."""

from __future__ import annotations

from ..profilers.graph import Graph
from ..spaces.fbnet import STEM, Block, Plan
from .graph_builder import GraphBuilder

__all__ = ["fbnet_graph", "fbnet_head", "fbnet_layer", "fbnet_network"]


def fbnet_graph(plan: Plan, input_shape: tuple[int, int, int] = (3, 32, 32), *, converted: bool = True) -> Graph:
    """Returns the graph of a network of the space `fbnet`.

    Args:
        plan: `FBNet.plan` of the architecture.
        input_shape: channels, height, width.
        converted: as a runtime executes its file, else as eager torch runs the module.
    """
    builder = GraphBuilder(input_shape, converted=converted)
    return builder.graph(fbnet_network(builder, plan))


def fbnet_network(builder: GraphBuilder, plan: Plan) -> int:
    """Writes down a network; returns its output."""
    x = builder.relu(builder.convolution(-1, STEM, 3, plan.stem_stride))
    for block, channels, stride in plan.layers:
        x = fbnet_layer(builder, x, block, channels, stride)
    return fbnet_head(builder, x, plan)


def fbnet_head(builder: GraphBuilder, x: int, plan: Plan) -> int:
    """What comes after the last layer; returns the output."""
    x = builder.relu(builder.convolution(x, plan.head, 1))
    return builder.classifier(x, plan.num_classes)


def fbnet_layer(builder: GraphBuilder, x: int, block: Block | None, channels: int, stride: int) -> int:
    """One layer; `None` is `skip`."""
    inputs = builder.shape(x)[1]
    same = stride == 1 and inputs == channels
    if block is None:
        return x if same else builder.relu(builder.convolution(x, channels, 1, stride))
    hidden = inputs * block.expand
    y = builder.relu(builder.convolution(x, hidden, 1, group=block.groups))
    if block.groups == 2:
        y = builder.shuffle(y, 2)
    y = builder.relu(builder.convolution(y, hidden, block.kernel, stride, hidden))
    y = builder.convolution(y, channels, 1, group=block.groups)
    return builder.total([x, y]) if same else y
