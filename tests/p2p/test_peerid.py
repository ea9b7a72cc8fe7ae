"""Peer ids are libp2p's own, computed without libp2p."""

from __future__ import annotations

import base58
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.keys import KeyType, PublicKey
from libp2p.peer.id import ID

from tests.p2p.kit import key
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.encoding import DecodeError
from trellis.peerid import check_peer_id, fingerprint, parse_peer_id, peer_id, peer_id_text
from trellis.types import PeerId


class LibraryKey(PublicKey):
    """Just enough for libp2p to name it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def to_bytes(self) -> bytes:
        return self._data

    def get_type(self) -> KeyType:
        return KeyType.ECC_P256

    def verify(self, data: bytes, signature: bytes) -> bool:
        raise NotImplementedError


@given(st.sampled_from(sorted(SIZES)), st.binary(min_size=32, max_size=32))
def test_a_peer_id_is_what_libp2p_computes(alg: AlgId, start: bytes) -> None:
    public_key = (start * 100)[: SIZES[alg].public_key_bytes]
    own = peer_id(alg, public_key)
    library = ID.from_pubkey(LibraryKey(bytes([alg]) + public_key))
    assert own == library.to_bytes()
    assert peer_id_text(own) == library.to_base58()
    assert parse_peer_id(library.to_base58()) == own


@given(st.binary(max_size=60))
def test_base58_agrees_with_another_implementation(data: bytes) -> None:
    assert peer_id_text(PeerId(data)) == base58.b58encode(data).decode()


def test_the_algorithm_is_part_of_the_name() -> None:
    public_key = key("a").public_key
    assert peer_id(AlgId.ML_DSA_65, public_key) != peer_id(AlgId.ML_DSA_87, public_key)
    assert fingerprint(AlgId.ML_DSA_65, public_key) != fingerprint(AlgId.ML_DSA_87, public_key)


@pytest.mark.parametrize(
    "text", ["", "0", "l", "Qm", "1" * 65, "Qm" + "z" * 60, "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx50"]
)
def test_text_that_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_peer_id(text)


@given(st.binary(max_size=70))
def test_any_bytes_are_a_peer_id_or_refused(data: bytes) -> None:
    try:
        assert check_peer_id(data) == data
    except DecodeError:
        return
    assert parse_peer_id(peer_id_text(PeerId(data))) == data
