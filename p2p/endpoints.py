"""Where a connection comes from. libp2p 0.8.1 says so for IPv4 over TCP alone: the name of an IPv6 socket has four
parts, which it takes for a mistake, and for WebSocket it has a placeholder."""

from __future__ import annotations

from typing import Any

from p2p.limits import UNKNOWN_ADDRESS


def remote_endpoint(conn: Any) -> tuple[str, int]:
    """Address and port of whoever is at the other end of a libp2p raw connection or of what it wraps."""
    inner = conn
    for _ in range(4):
        websocket = getattr(inner, "_ws_connection", None)
        if websocket is not None:
            endpoint = websocket.remote
            return (str(endpoint.address), int(endpoint.port)) if hasattr(endpoint, "port") else (UNKNOWN_ADDRESS, 0)
        sock = getattr(inner, "socket", None)
        if sock is not None:
            try:
                name = sock.getpeername()
            except OSError:
                return UNKNOWN_ADDRESS, 0
            return (str(name[0]), int(name[1])) if isinstance(name, tuple) else (UNKNOWN_ADDRESS, 0)
        inner = getattr(inner, "stream", None)
    return UNKNOWN_ADDRESS, 0


def shown(endpoint: tuple[str, int]) -> str:
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
