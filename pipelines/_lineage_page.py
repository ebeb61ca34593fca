"""The lineage pages: the store's artifacts as a graph from left to right, and one artifact's record beside it.

    /                            everything, or ?recipe=NAME
    /artifact/FINGERPRINT        the same with this artifact's record; an address to keep
    /artifact/FINGERPRINT/files/PATH    one of its files, such as report.html
    /api/lineage                 the graph as JSON

Read from the records at every request, so it is never out of date; it writes nothing. Loopback only.
"""

from __future__ import annotations

import time
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from llavaflow.infra.identity import flatten
from llavaflow.infra.lineage import Graph, build_graph
from llavaflow.infra.record import Record
from llavaflow.infra.store import ArtifactStore
from llavaflow.pipelines._facts import tables
from llavaflow.pipelines._lineage_layout import HEIGHT, WIDTH, lay_out

FILES_SHOWN = 60


def lineage_app(store: ArtifactStore, prefect_page: str = "") -> Starlette:
    """The pages of a store."""
    text = files("llavaflow.pipelines").joinpath("_lineage_page.html.j2").read_text()
    template = Environment(autoescape=True).from_string(text)

    def page(request: Request) -> HTMLResponse:
        record = _record(store, request.path_params["fingerprint"]) if request.path_params else None
        recipe = request.query_params.get("recipe", "")
        graph = _graph(store, recipe)
        if record and record.ref not in graph.nodes:
            graph = _graph(store, "")
        drawing = lay_out(graph, record.ref if record else "")
        body = template.render(
            drawing=drawing,
            chosen=record,
            recipe=recipe,
            recipes=sorted(store.recipes()),
            store=store.url,
            prefect=prefect_page,
            node_width=WIDTH,
            node_height=HEIGHT,
            files_shown=FILES_SHOWN,
            **_details(record),
        )
        return HTMLResponse(body)

    def file(request: Request) -> Response:
        record = _record(store, request.path_params["fingerprint"])
        path = request.path_params["path"]
        # only what the record lists: nothing beside the artifact can be asked for
        if path not in {entry.path for entry in record.files}:
            raise HTTPException(404, f"{record.ref} has no file {path}")
        artifact = store.find(record.fingerprint, record.kind)
        if artifact is None:
            raise HTTPException(404, f"{record.ref} is damaged")
        return FileResponse(store.local_path(artifact) / path)

    def graph_json(request: Request) -> JSONResponse:
        return JSONResponse(_graph(store, request.query_params.get("recipe", "")).as_json())

    return Starlette(
        routes=[
            Route("/", page),
            Route("/artifact/{fingerprint}", page),
            Route("/artifact/{fingerprint}/files/{path:path}", file),
            Route("/api/lineage", graph_json),
        ],
        # a page elsewhere must not be able to read a store through a name that it points to loopback
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])],
    )


def _graph(store: ArtifactStore, recipe: str) -> Graph:
    graph = build_graph(store.records())
    if not recipe:
        return graph
    stages = store.recipes().get(recipe, [])
    named = {pointer.ref for stage in stages for pointer in store.history(recipe, stage)}
    nodes = {ref: node for ref, node in graph.nodes.items() if ref in named}
    edges = tuple(edge for edge in graph.edges if edge.source in nodes and edge.target in nodes)
    return Graph(nodes=nodes, edges=edges)


def _record(store: ArtifactStore, fingerprint: str) -> Record:
    for record in store.records():
        if record.fingerprint == fingerprint:
            return record
    raise HTTPException(404, f"no artifact {fingerprint} in {store.url}")


def _details(record: Record | None) -> dict[str, Any]:
    if record is None:
        return {}
    return {
        "created": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created)),
        "facts": list(tables(record.facts)),
        "settings": sorted(flatten(record.identity.settings).items()),
    }
