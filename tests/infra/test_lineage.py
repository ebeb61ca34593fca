"""The graph of artifacts: who was made from what."""

from __future__ import annotations

from llavaflow.infra.identity import Identity, InputRef
from llavaflow.infra.lineage import Graph, build_graph
from llavaflow.infra.record import Record


def record(name: str, **inputs: str) -> Record:
    held = {path: InputRef(kind="shards", stage=ref, fingerprint=ref) for path, ref in inputs.items()}
    return Record(kind="shards", stage=name, recipe="toy", fingerprint=name, identity=Identity(inputs=held))


def diamond() -> Graph:
    return build_graph([record("a"), record("b", x="a"), record("c", x="a"), record("d", left="b", right="c", old="z")])


def test_neighbours_are_the_inputs_and_the_consumers() -> None:
    graph = diamond()
    assert graph.neighbours("shards:d", "up") == ["shards:b", "shards:c", "shards:z"]
    assert graph.neighbours("shards:a", "down") == ["shards:b", "shards:c"]
    assert graph.paths("shards:b", "shards:d") == ["left"]


def test_reach_names_everything_once_and_the_nearest_first() -> None:
    assert diamond().reach("shards:a", "down") == ["shards:b", "shards:c", "shards:d"]


def test_around_keeps_what_leads_to_an_artifact_and_what_comes_of_it() -> None:
    graph = diamond()
    assert set(graph.around("shards:b", ["up"]).nodes) == {"shards:a", "shards:b"}
    assert set(graph.around("shards:b", ["up", "down"]).nodes) == {"shards:a", "shards:b", "shards:d"}


def test_an_input_that_was_deleted_is_marked() -> None:
    absent = [node for node in diamond().as_json()["nodes"] if not node["present"]]
    assert [node["ref"] for node in absent] == ["shards:z"]
