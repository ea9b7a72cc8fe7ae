"""Account rows: balance and nonce apart from the key, so that a payment never hashes two kilobytes of key again."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from state.overlay import Overlay
from state.view import StateView
from trellis.address import address_of
from trellis.types import HASH_BYTES, Address, Hash

ACCOUNT_PREFIX: Final = b"a"
KEY_PREFIX: Final = b"k"
_ROW: Final = Struct(">QQ")
_EMPTY: Final = (0, 0)


class Account(NamedTuple):
    """Never deleted once it has a nonce: a fresh row would let old transactions be played again."""

    balance: int
    nonce: int


NO_ACCOUNT: Final = Account(*_EMPTY)


def read_account(view: StateView, address: Address) -> Account:
    row = view.get(ACCOUNT_PREFIX + address)
    return NO_ACCOUNT if row is None else Account._make(_ROW.unpack(row))


def write_account(state: Overlay, address: Address, balance: int, nonce: int) -> None:
    state.put(ACCOUNT_PREFIX + address, _ROW.pack(balance, nonce))


def credit(state: Overlay, address: Address, amount: int) -> None:
    """No balance can overflow: genesis refuses a supply that emission could carry past 64 bits."""
    if amount:
        key = ACCOUNT_PREFIX + address
        row = state.get(key)
        balance, nonce = _EMPTY if row is None else _ROW.unpack(row)
        state.put(key, _ROW.pack(balance + amount, nonce))


def debit(state: Overlay, address: Address, amount: int) -> bool:
    """False, and nothing changed, where the balance does not suffice."""
    key = ACCOUNT_PREFIX + address
    row = state.get(key)
    balance, nonce = _EMPTY if row is None else _ROW.unpack(row)
    if balance < amount:
        return False
    state.put(key, _ROW.pack(balance - amount, nonce))
    return True


@dataclass(frozen=True, slots=True)
class AccountKey:
    """The key in force, with the hash that names it in caches of verdicts."""

    alg_id: int
    key_hash: Hash
    public_key: bytes

    def encode(self) -> bytes:
        return bytes((self.alg_id,)) + self.key_hash + self.public_key


def make_account_key(alg_id: int, public_key: bytes) -> AccountKey:
    return AccountKey(alg_id, Hash(address_of(alg_id, public_key)), public_key)


def read_key(view: StateView, address: Address) -> AccountKey | None:
    row = view.get(KEY_PREFIX + address)
    if row is None:
        return None
    return AccountKey(row[0], Hash(row[1 : 1 + HASH_BYTES]), row[1 + HASH_BYTES :])


def write_key(state: Overlay, address: Address, key: AccountKey) -> None:
    state.put(KEY_PREFIX + address, key.encode())
