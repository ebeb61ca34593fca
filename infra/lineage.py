"""Lineage of artifacts: what an artifact was made from, and what was made from it. Records say it; nothing else does.

Edges run from an input to its consumer and carry the field that holds it. An input that was deleted since still has
its node, marked absent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from llavaflow.infra.artifact import Json
from llavaflow.infra.record import Record

Direction = Literal["up", "down"]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """`source` was an input of `target`, held in its field `path`."""

    source: str
    target: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """An artifact as a point of the graph; `record` is None when only its consumers remember it."""

    ref: str
    stage: str
    record: Record | None

    def as_json(self) -> dict[str, Json]:
        body: dict[str, Json] = {"ref": self.ref, "stage": self.stage, "present": self.record is not None}
        if self.record:
            keys = ("kind", "fingerprint", "recipe", "generation", "created", "seconds", "run_id")
            body |= {key: getattr(self.record, key) for key in keys} | {"facts": dict(self.record.facts)}
        return body


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Artifacts by reference, and the edges between them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: tuple[Edge, ...] = ()

    def neighbours(self, ref: str, direction: Direction) -> list[str]:
        """The inputs of an artifact (up) or its consumers (down), each once."""
        if direction == "up":
            return list(dict.fromkeys(edge.source for edge in self.edges if edge.target == ref))
        return list(dict.fromkeys(edge.target for edge in self.edges if edge.source == ref))

    def paths(self, source: str, target: str) -> list[str]:
        """The fields of `target` that hold `source`."""
        return [edge.path for edge in self.edges if (edge.source, edge.target) == (source, target)]

    def reach(self, start: str, direction: Direction) -> list[str]:
        """Everything reachable, nearest first, without the start."""
        seen, waiting = dict[str, None](), [start]
        while waiting:
            waiting = [n for ref in waiting for n in self.neighbours(ref, direction) if n not in seen]
            seen.update(dict.fromkeys(waiting))
        return list(seen)

    def around(self, ref: str, directions: Iterable[Direction]) -> Graph:
        """The part of the graph that leads to an artifact, comes from it, or both."""
        keep = {ref}.union(*(self.reach(ref, direction) for direction in directions))
        nodes = {name: node for name, node in self.nodes.items() if name in keep}
        edges = tuple(edge for edge in self.edges if edge.source in keep and edge.target in keep)
        return Graph(nodes=nodes, edges=edges)

    def as_json(self) -> dict[str, Json]:
        edges = [{"source": edge.source, "target": edge.target, "field": edge.path} for edge in self.edges]
        return {"nodes": [node.as_json() for node in self.nodes.values()], "edges": edges}


def build_graph(records: Iterable[Record]) -> Graph:
    """The graph of these records, oldest first."""
    known = {record.ref: Node(ref=record.ref, stage=record.stage, record=record) for record in records}
    edges = []
    absent = {}
    for node in known.values():
        for path, held in node.record.identity.inputs.items() if node.record else ():
            edges.append(Edge(source=held.ref, target=node.ref, path=path))
            if held.ref not in known:
                absent[held.ref] = Node(ref=held.ref, stage=held.stage, record=None)
    return Graph(nodes={**absent, **known}, edges=tuple(edges))
