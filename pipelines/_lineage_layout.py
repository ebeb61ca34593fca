"""The graph of artifacts laid out from left to right: an artifact stands right of everything it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from llavaflow.infra.lineage import Graph, Node

WIDTH, HEIGHT = 190, 54
GAP_X, GAP_Y, MARGIN = 70, 22, 20
BEND = 34


@dataclass(frozen=True, kw_only=True)
class Place:
    """A node and its upper left corner, in pixels."""

    node: Node
    x: int
    y: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """An edge as the points of a curve; `near` when it touches the chosen artifact."""

    path: str
    title: str
    near: bool


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Everything that the page draws."""

    places: tuple[Place, ...]
    lines: tuple[Line, ...]
    width: int
    height: int


def lay_out(graph: Graph, chosen: str = "") -> Drawing:
    """Columns by the longest way from a source; within a column the order of the inputs, so that lines cross little."""
    columns: dict[int, list[str]] = {}
    depth = _depths(graph)
    for ref in graph.nodes:
        columns.setdefault(depth[ref], []).append(ref)
    rows: dict[str, float] = {}
    for column in sorted(columns):
        order = sorted(columns[column], key=lambda ref: _weight(graph, ref, rows))
        rows |= {ref: float(row) for row, ref in enumerate(order)}
    places = {ref: _place(graph.nodes[ref], depth[ref], int(rows[ref])) for ref in graph.nodes}
    lines = tuple(
        Line(
            path=_curve(places[edge.source], places[edge.target]),
            title=edge.path,
            near=chosen in (edge.source, edge.target),
        )
        for edge in graph.edges
        if edge.source in places and edge.target in places
    )
    right = max((place.x for place in places.values()), default=0) + WIDTH + MARGIN
    longest = max((depth[edge.target] - depth[edge.source] for edge in graph.edges), default=1)
    bottom = max((place.y for place in places.values()), default=0) + HEIGHT + MARGIN + BEND * (longest - 1)
    return Drawing(places=tuple(places.values()), lines=lines, width=right, height=bottom)


def _depths(graph: Graph) -> dict[str, int]:
    depths: dict[str, int] = {}

    def depth(ref: str) -> int:
        if ref not in depths:
            depths[ref] = 0
            above = [depth(source) for source in graph.neighbours(ref, "up") if source in graph.nodes]
            depths[ref] = 1 + max(above) if above else 0
        return depths[ref]

    for ref in graph.nodes:
        depth(ref)
    return depths


def _weight(graph: Graph, ref: str, rows: dict[str, float]) -> tuple[float, str]:
    """The mean row of the inputs; the name keeps the order the same every time."""
    above = [rows[source] for source in graph.neighbours(ref, "up") if source in rows]
    return (sum(above) / len(above) if above else 0.0, ref)


def _place(node: Node, column: int, row: int) -> Place:
    return Place(node=node, x=MARGIN + column * (WIDTH + GAP_X), y=MARGIN + row * (HEIGHT + GAP_Y))


def _curve(source: Place, target: Place) -> str:
    x1, y1 = source.x + WIDTH, source.y + HEIGHT // 2
    x2, y2 = target.x, target.y + HEIGHT // 2
    middle = (x1 + x2) // 2
    # a long edge bends below the columns that it passes
    bend = BEND * ((x2 - x1) // (WIDTH + GAP_X))
    return f"M{x1},{y1} C{middle},{y1 + bend} {middle},{y2 + bend} {x2},{y2}"
