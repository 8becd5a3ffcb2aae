"""The executed graph of an architecture without building, exporting or loading a module: the fast way.

>>> from hwnas.spaces import load_space
>>> space = load_space("mobile", input_shape=(1, 8, 8), num_classes=10)
>>> [node.op for node in written_graph(space, space.corners()[0]).nodes[-3:]]
['ReorderOutput', 'Flatten', 'Gemm']
"""

from __future__ import annotations

from collections.abc import Callable

from ..profilers.graph import Graph
from ..spaces import Architecture, FBNet, Mobile, NasBench201, Space
from .fbnet_graph import fbnet_network
from .fusion import applied, rules_of
from .graph_builder import GraphBuilder
from .mobile_graph import mobile_network
from .nasbench201_graph import nasbench201_network
from .network import Network, NoRule

__all__ = ["plain_network", "written_graph"]


def written_graph(
    space: Space,
    architecture: Architecture,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    block: int | None = None,
) -> Graph | None:
    """Returns the graph that a runtime executes of an architecture, equal to what it tells of the exported file.

    Args:
        space: of the architecture.
        architecture: one of the space.
        runtime: name of the runtime.
        precision: of the file.
        block: channels that the device's onnxruntime keeps together, 16 with AVX-512 and 8 on other x86-64; None for
            those of this machine.

    Returns:
        None where there is no fast path: another space, a runtime or precision without rules for this network, a
        processor whose blocks are not known, or a network that does not depend on its input. Ask the runtime then.
    """
    rules = rules_of(runtime, precision, block)
    network = plain_network(space, architecture) if rules is not None else None
    if rules is None or network is None:
        return None
    try:
        network = applied(network, rules)
    except NoRule:
        return None
    return network.graph(f"{runtime} {precision}, written down")


def plain_network(space: Space, architecture: Architecture) -> Network | None:
    """Returns the network of an architecture, an operator of its module a call; None for a space without a writer."""
    write = _WRITERS.get(type(space))
    return None if write is None else write(space, architecture)


def _mobile(space: Space, architecture: Architecture) -> Network:
    assert isinstance(space, Mobile)
    builder = GraphBuilder(space.input_of(architecture), converted=False)
    return builder.network(mobile_network(builder, space.plan(architecture)))


def _fbnet(space: Space, architecture: Architecture) -> Network:
    assert isinstance(space, FBNet)
    builder = GraphBuilder(space.input_of(architecture), converted=False)
    return builder.network(fbnet_network(builder, space.plan(architecture)))


def _nasbench201(space: Space, architecture: Architecture) -> Network | None:
    """Live edges alone, as in the file; the module's dead ones reach no output."""
    assert isinstance(space, NasBench201)
    cell = space.cell_of(architecture)
    if not cell.live:
        return None
    builder = GraphBuilder(space.input_of(architecture), converted=False)
    return builder.network(nasbench201_network(builder, cell, cell.live, space.num_classes))


_WRITERS: dict[type[Space], Callable[[Space, Architecture], Network | None]] = {
    FBNet: _fbnet,
    Mobile: _mobile,
    NasBench201: _nasbench201,
}
"""Space → what writes its networks down. A subclass may build other networks, so it is none of them."""
