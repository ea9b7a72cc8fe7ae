"""Where the services are reached: addresses, TLS, unix sockets, and what a listener refuses to start with."""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc

from node.rpc.access import Access
from node.rpc.quotas import UNLIMITED, QuotaLimits

UNIX_PREFIX: Final = "unix:"
MAX_SOCKET_PATH_BYTES: Final = 100
"""The kernel takes 107; the name that the socket has until it is ready needs a few of them."""


class ListenFault(Exception):
    """A listener cannot be opened; the message says which, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM contents. The key is never shown."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None = None
    """When set, clients must present a certificate of this authority."""


@dataclass(frozen=True, slots=True)
class Listener:
    """One address, and what it asks of those who come."""

    address: str
    """"host:port", or "unix:path"; port 0 takes a free one."""
    tls: Tls | None = None
    post_quantum_only: bool = False
    admin: bool = False
    """Serves AdminService too."""
    token: str | None = field(default=None, repr=False)
    """Admin calls carry it, unless they come with a client certificate."""
    quotas: QuotaLimits = QuotaLimits()

    def __post_init__(self) -> None:
        if self.post_quantum_only and self.tls is None:
            raise ListenFault(f"{self.address}: grpc.post_quantum_only needs grpc.tls_certificate and grpc.tls_key")
        if not self.admin:
            return
        certified = self.tls is not None and self.tls.client_ca is not None
        if not self.is_unix and not certified and self.token is None:
            raise ListenFault(
                f"the admin service at {self.address} would be open to anyone: use a unix socket, "
                "grpc.admin_token_file, or client certificates (grpc.client_ca)"
            )
        if self.token is not None and self.tls is None and not self._is_local:
            raise ListenFault(f"the admin token would travel in plaintext to {self.address}: use TLS or a unix socket")

    @property
    def is_unix(self) -> bool:
        return self.address.startswith(UNIX_PREFIX)

    @property
    def _is_local(self) -> bool:
        host = self.address.rpartition(":")[0]
        return self.is_unix or host in ("127.0.0.1", "localhost", "[::1]")

    @property
    def access(self) -> Access:
        return Access(
            post_quantum_only=self.post_quantum_only,
            client_certificates=self.tls is not None and self.tls.client_ca is not None,
            local=self.is_unix,
            token=self.token,
        )


def operators(address: str, token: str | None = None, tls: Tls | None = None) -> Listener:
    """The listener with the admin service, without quotas."""
    return Listener(address, tls=tls, admin=True, token=token, quotas=UNLIMITED)


@dataclass(slots=True)
class Bound:
    """An open listener."""

    listener: Listener
    port: int
    path: Path | None = None
    inode: int = 0

    @property
    def address(self) -> str:
        """What to connect to."""
        if self.path is not None:
            return f"{UNIX_PREFIX}{self.path}"
        return f"{self.listener.address.rpartition(':')[0]}:{self.port}"

    def close(self) -> None:
        """Removes the socket's file, unless another process has put its own there."""
        if self.path is not None and self.path.exists() and self.path.stat().st_ino == self.inode:
            self.path.unlink()


def bind(server: grpc.aio.Server, listener: Listener) -> Bound:
    """Raises `ListenFault`."""
    if listener.is_unix:
        return _bind_unix(server, listener)
    return Bound(listener, _add(server, listener, listener.address))


def _add(server: grpc.aio.Server, listener: Listener, address: str) -> int:
    tls = listener.tls
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            pair = [(tls.key, tls.certificate)]
            asked = tls.client_ca is not None
            credentials = grpc.ssl_server_credentials(pair, tls.client_ca, require_client_auth=asked)
            port = server.add_secure_port(address, credentials)
    except RuntimeError as fault:
        raise _cannot(listener, str(fault)) from fault
    if port == 0 and not listener.is_unix:
        raise _cannot(listener, "the address cannot be bound")
    return port


def _cannot(listener: Listener, why: str) -> ListenFault:
    key = "grpc.admin_listen" if listener.admin else "grpc.listen"
    told = why.splitlines()[0][:200]
    return ListenFault(
        f"cannot listen at {listener.address}: is it in use, or not an address of this machine? ({told}) "
        f"Stop what listens there, or choose another {key}"
    )


def _bind_unix(server: grpc.aio.Server, listener: Listener) -> Bound:
    """The socket is bound within a folder that nobody else can enter, made private, and then moved to its place: there
    is no moment at which another user of the machine could connect."""
    path = Path(listener.address.removeprefix(UNIX_PREFIX)).absolute()
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ListenFault(f"{path} is too long for a unix socket: the most is {MAX_SOCKET_PATH_BYTES} bytes")
    if not path.parent.is_dir():
        raise ListenFault(f"the folder of the socket {path} is missing: make it, or choose another address")
    _clear_stale(path, listener)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as private:
        fresh = Path(private) / "s"
        _add(server, listener, f"{UNIX_PREFIX}{fresh}")
        fresh.chmod(0o600)
        fresh.rename(path)
    return Bound(listener, 0, path, path.stat().st_ino)


def _clear_stale(path: Path, listener: Listener) -> None:
    """A node that was killed leaves its socket behind; one that runs answers."""
    if not path.exists():
        return
    if not path.is_socket():
        raise ListenFault(f"{path} exists and is no socket: remove it, or choose another address")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as fault:
            raise _cannot(listener, str(fault)) from fault
    raise _cannot(listener, "another process answers there")
