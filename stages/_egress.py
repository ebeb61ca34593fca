"""The way out: a small HTTP proxy on loopback through which every download goes.

img2dataset has no hook for addresses, and a check before the request is worth nothing: a name may resolve to another
address a moment later, and a redirect may lead anywhere. This proxy resolves each host itself, refuses addresses that
are not on the public internet, and connects to exactly the address that it checked. Redirects are followed by the
client, so each hop passes here again.

It is also where manners live: at most `per_host` requests to one host at a time, at most `max_bytes` per answer, and
`timeout_s` for a connection and for each next byte. That clock starts when a request has its turn, so that waiting
for others out of politeness is not held against a URL; the client must be given more patience than the proxy.

`allow_hosts` may resolve to private addresses. `host_map` sends a domain and its subdomains to a fixed address, which
is how the generated world answers for `*.scenes.test` without a port in any URL.

`requests` counts what came in, so that a watchdog can tell slow from hung. A refusal is an HTTP error whose reason
phrase is `Egress refused: <reason>` (policy) or `Egress failed: <reason>` (the network).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

HEAD_BYTES = 64 * 1024
CHUNK_BYTES = 64 * 1024
# the whole of an answer may take so many times as long as its next byte
PATIENCE = 10
# RFC 6761: these never exist, and asking a resolver that is not there for them costs a timeout
NEVER_RESOLVED = ("invalid", "test")
HOP_HEADERS = ("proxy-", "connection:", "keep-alive:")


class Refused(Exception):
    """The request does not go out; `status` and the message become the answer to the client."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(f"Egress {kind}: {reason}")
        self.status = status


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, looking through the IPv6 forms that carry an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if carried is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return is_public(str(carried))
        # once for networks of one site, and two forms that carry IPv4 addresses of a local network
        if any(ip in ipaddress.ip_network(block) for block in ("fec0::/10", "::/96", "64:ff9b:1::/48")):
            return False
    return ip.is_global and not ip.is_multicast


def in_domain(host: str, domain: str) -> bool:
    return host == domain or host.endswith("." + domain)


@dataclass(kw_only=True)
class EgressProxy:
    """A proxy that lives as long as its `with` block, in a thread of its own."""

    allow_hosts: Collection[str] = ()
    host_map: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    per_host: int = 8
    max_bytes: int = 64 * 2**20
    timeout_s: float = 30.0
    url: str = field(default="", init=False)
    requests: int = field(default=0, init=False)

    def __enter__(self) -> EgressProxy:
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="egress-proxy", daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, _: type[BaseException] | None, __: object, ___: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except Refused as refusal:
            head = f"HTTP/1.1 {refusal.status} {refusal}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.requests += 1
        method, target, *_ = [*lines[0].split(" "), "", ""]
        tunnel = method == "CONNECT"
        try:
            parts = urlsplit("//" + target if tunnel else target)
            port = parts.port or (443 if tunnel else 80)
        except ValueError as error:
            raise Refused(403, "refused", "malformed-url") from error
        if not tunnel and (method not in ("GET", "HEAD") or parts.scheme != "http" or not parts.hostname):
            raise Refused(403, "refused", "scheme")
        host = (parts.hostname or "").lower().rstrip(".")
        slot = self._slots.setdefault(host, asyncio.Semaphore(self.per_host))
        async with slot, asyncio.timeout(PATIENCE * self.timeout_s):
            address, port = await self._resolve(host, port)
            out_reader, out_writer = await self._connect(address, port)
            try:
                if tunnel:
                    writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                    upward = asyncio.ensure_future(self._pipe(reader, out_writer, self.max_bytes))
                    await self._pipe(out_reader, writer, self.max_bytes)
                    upward.cancel()
                else:
                    out_writer.write(_request_head(method, _path_of(target), lines[1:]))
                    await self._relay(out_reader, writer)
            finally:
                out_writer.close()

    async def _resolve(self, host: str, port: int) -> tuple[str, int]:
        """The address to connect to: mapped, or resolved and then allowed."""
        for domain, place in self.host_map.items():
            if in_domain(host, domain):
                return place
        if host.rpartition(".")[2] in NEVER_RESOLVED:
            raise Refused(502, "failed", "dns")
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Refused(502, "failed", "dns") from error
        addresses = [str(entry[4][0]) for entry in found]
        allowed = addresses if host in self.allow_hosts else [item for item in addresses if is_public(item)]
        if not allowed:
            raise Refused(403, "refused", "private-address")
        return allowed[0], port

    async def _connect(self, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.wait_for(asyncio.open_connection(address, port, limit=HEAD_BYTES), self.timeout_s)
        except TimeoutError as error:
            raise Refused(504, "failed", "timeout") from error
        except OSError as error:
            raise Refused(502, "failed", "connection") from error

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass an answer on, unless it announces more bytes than are wanted."""
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), self.timeout_s)
        except TimeoutError as error:
            raise Refused(504, "failed", "timeout") from error
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Refused(502, "failed", "connection") from error
        for line in head.lower().split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name == b"content-length" and value.strip().isdigit() and int(value) > self.max_bytes:
                raise Refused(403, "refused", "too-many-bytes")
        writer.write(head)
        await self._pipe(reader, writer, self.max_bytes)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int) -> None:
        while limit > 0 and (data := await asyncio.wait_for(reader.read(CHUNK_BYTES), self.timeout_s)):
            limit -= len(data)
            writer.write(data)
            await writer.drain()


def _path_of(url: str) -> str:
    """Path and query exactly as they stand in an absolute URL."""
    rest = url.partition("://")[2]
    start = min((at for mark in "/?" if (at := rest.find(mark)) >= 0), default=len(rest))
    path = rest[start:].partition("#")[0]
    return path if path.startswith("/") else f"/{path}"


def _request_head(method: str, path: str, headers: list[str]) -> bytes:
    kept = [line for line in headers if line and not line.lower().startswith(HOP_HEADERS)]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""]).encode("latin-1")
