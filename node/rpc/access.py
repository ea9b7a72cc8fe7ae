"""Who may call: what a listener asks of a connection, and of those who operate the node."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any, Final, Protocol

from node.rpc.errors import Reason, Refused
from node.rpc.policies import Policy

POST_QUANTUM_GROUP: Final = b"X25519MLKEM768"
_GROUP: Final = "ssl_negotiated_key_exchange_group"
_NAME: Final = "x509_common_name"


class Unauthenticated(Exception):
    """The connection is not of the kind that this listener takes."""


class Connection(Protocol):
    def peer(self) -> str: ...

    def auth_context(self) -> dict[str, list[bytes]]: ...

    def invocation_metadata(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Access:
    """`token` is never shown."""

    post_quantum_only: bool = False
    client_certificates: bool = False
    """Connections present a certificate of the operator's authority; the TLS layer has checked it."""
    local: bool = False
    """A unix socket: whoever may open its file operates the node."""
    token: str | None = None

    def __repr__(self) -> str:
        return f"Access(post_quantum_only={self.post_quantum_only}, token={'…' if self.token else None})"

    def check(self, context: Connection, policy: Policy) -> str:
        """Who calls, for the log."""
        certified = ""
        if self.post_quantum_only or self.client_certificates:
            facts = context.auth_context()
            if self.post_quantum_only and facts.get(_GROUP, [b""])[0] != POST_QUANTUM_GROUP:
                used = facts.get(_GROUP, [b"none"])[0].decode("ascii", "replace")
                raise Unauthenticated(
                    f"this listener takes the key exchange {POST_QUANTUM_GROUP.decode()} alone, yours was {used}: "
                    "use a TLS library with ML-KEM"
                )
            names = facts.get(_NAME, [])
            certified = names[0].decode("utf-8", "replace") if names else ""
        if not policy.admin:
            return certified
        if self.client_certificates and certified:
            return f"certificate {certified}"
        if self.token is not None:
            if self._carries_token(context):
                return "token"
        elif self.local:
            return "unix socket"
        raise Refused(Reason.ROLE_REQUIRED, "this method is for operators: a token or certificate", {"role": "admin"})

    def _carries_token(self, context: Connection) -> bool:
        wanted = f"Bearer {self.token}".encode()
        for key, value in context.invocation_metadata() or ():
            given = value if isinstance(value, bytes) else str(value).encode()
            if key == "authorization" and hmac.compare_digest(given, wanted):
                return True
        return False
