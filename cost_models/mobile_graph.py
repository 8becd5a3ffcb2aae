"""A network of `mobile`, written down without building a module."""

from __future__ import annotations

from ..spaces.mobile import Plan, Stage
from .graph_builder import GraphBuilder

__all__ = ["bottleneck", "mobile_head", "mobile_network"]

_ACTIVATIONS = {"relu": "Relu", "hswish": "HardSwish"}


def mobile_network(builder: GraphBuilder, plan: Plan) -> int:
    """Writes down a network; returns its output."""
    act = _ACTIVATIONS[plan.activation]
    x = builder.activation(builder.convolution(-1, plan.stem, 3, plan.stem_stride), act)
    for stage in plan.stages:
        for place in range(stage.depth):
            x = bottleneck(builder, x, stage, stage.stride if place == 0 else 1, plan.activation)
    return mobile_head(builder, x, plan)


def mobile_head(builder: GraphBuilder, x: int, plan: Plan) -> int:
    """What comes after the last stage; returns the output."""
    if plan.head:
        x = builder.activation(builder.convolution(x, plan.head, 1), _ACTIVATIONS[plan.activation])
    return builder.classifier(x, plan.num_classes)


def bottleneck(builder: GraphBuilder, x: int, stage: Stage, stride: int, activation: str) -> int:
    """One inverted bottleneck of a stage."""
    act, inputs = _ACTIVATIONS[activation], builder.shape(x)[1]
    hidden = inputs * stage.expand
    y = builder.activation(builder.convolution(x, hidden, 1), act)
    y = builder.activation(builder.convolution(y, hidden, stage.kernel, stride, hidden), act)
    if stage.se:
        y = builder.scaled(y, _gate(builder, y, max(8, hidden // 8)))
    y = builder.convolution(y, stage.channels, 1)
    return builder.total([x, y]) if stride == 1 and inputs == stage.channels else y


def _gate(builder: GraphBuilder, x: int, squeezed: int) -> int:
    """Squeeze-excite's weight of each channel."""
    y = builder.relu(builder.dense(builder.global_pool(x), squeezed))
    return builder.activation(builder.dense(y, builder.shape(x)[1]), "HardSigmoid")
