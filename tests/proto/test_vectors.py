"""Golden vectors: the code writes what the files hold, reads it back, and a second implementation agrees byte for byte.

`tests/proto/independent.py` computes each encoding from the fields that the files list, without the protocol layer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from tests.proto import independent
from tests.proto.schedule_model import ScheduleModel
from tests.signing import fake_verify_all
from tests.vectors import generate
from tests.vectors.schedules import address_of_name, named_set
from trellis.address import decode_member_signatures, decode_policy, parse_address
from trellis.block import decode_block, decode_compact_body
from trellis.certificate import decode_certificate
from trellis.crypto.policy import decode_policy_document
from trellis.crypto.schemes import verify_all, verify_one
from trellis.encoding import DecodeError
from trellis.evidence import decode_evidence, encode_evidence
from trellis.genesis import genesis_from_json
from trellis.header import decode_header, decode_seal
from trellis.messages import decode_message, encode_message
from trellis.mmr import decode_mmr, decode_mmr_proof
from trellis.receipt import Checkpoint, decode_receipt, verify_receipt
from trellis.records import decode_signed_address_record, decode_signed_manifest, decode_verdict_batch
from trellis.schedule import decode_schedule
from trellis.statetree import decode_state_proof
from trellis.transaction import decode_body, decode_transaction
from trellis.types import Hash, Height
from trellis.v1 import transaction_pb2
from trellis.validators import decode_validator_set
from trellis.votes import decode_signed_vote
from trellis.wire import FrameDecoder

Fields = dict[str, Any]


def load(name: str) -> Any:
    return json.loads((generate.HERE / name).read_text())


def cases(name: str, *path: str) -> list[Any]:
    found = load(name)
    for step in path:
        found = found[step]
    return [pytest.param(case, id=case.get("name", str(place))) for place, case in enumerate(found)]


@pytest.mark.parametrize("name", generate.FILES)
def test_the_code_writes_exactly_what_the_file_holds(name: str) -> None:
    assert json.loads(generate.as_text(generate.FILES[name]())) == load(name)


def test_every_vector_file_is_written_by_the_generator_or_recorded() -> None:
    found = {path.name for path in generate.HERE.glob("*.json")}
    assert found == {*generate.FILES, generate.RECORDED}


@pytest.mark.parametrize("case", cases("genesis.json")[:2])
def test_genesis_has_the_canonical_bytes_of_its_layout(case: Fields) -> None:
    encoded = independent.genesis(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert independent.h("trellis/genesis/1", encoded).hex() == case["genesis_hash"]
    assert independent.params_hash(case["fields"]).hex() == case["params_hash"]
    policy = independent.policy(case["fields"]["policy"]["entries"])
    assert independent.h("trellis/policy/1", policy).hex() == case["policy_root"]
    members = independent.validator_set(case["fields"]["validators"])
    assert independent.h("trellis/validators/1", members).hex() == case["validators_hash"]
    genesis = genesis_from_json(case["document"])
    assert genesis.hash.hex() == case["genesis_hash"]
    assert decode_policy_document(policy) == genesis.policy


def test_the_order_of_keys_and_lists_in_a_genesis_document_does_not_change_the_chain() -> None:
    case = load("genesis.json")[0]
    document = dict(reversed(case["document"].items()))
    for name in ("validators", "accounts", "algorithm_policy"):
        document[name] = list(reversed(document[name]))
    assert genesis_from_json(document).hash.hex() == case["genesis_hash"]


@pytest.mark.parametrize("case", cases("addresses.json", "valid"))
def test_addresses_are_bech32m(case: Fields) -> None:
    raw = bytes.fromhex(case["address"])
    assert independent.bech32m("trl", raw) == case["text"]
    assert parse_address(case["text"]) == parse_address(case["text"].upper()) == raw


@pytest.mark.parametrize("case", cases("addresses.json", "invalid"))
def test_what_is_no_address_is_refused_with_a_reason(case: Fields) -> None:
    with pytest.raises(DecodeError) as caught:
        parse_address(case["text"])
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("addresses.json", "of keys"))
def test_addresses_and_fingerprints_hash_algorithm_and_key(case: Fields) -> None:
    key, alg_id = bytes.fromhex(case["public_key"]), case["alg_id"]
    assert independent.address(alg_id, key).hex() == case["address"]
    assert independent.h("trellis/fp/1", bytes([alg_id]), key).hex() == case["fingerprint"]


def test_the_multi_signature_form_has_the_bytes_of_its_layout() -> None:
    case = load("addresses.json")["multi-signature"]
    encoded = independent.multisig_policy(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert independent.address(16, encoded).hex() == case["address"]
    signatures = independent.member_signatures(case["signatures"])
    assert signatures.hex() == case["encoded_signatures"]
    policy = decode_policy(encoded)
    read = decode_member_signatures(signatures, policy)
    assert [[index, signature.hex()] for index, signature in read] == case["signatures"]


@pytest.mark.parametrize("case", cases("transactions.json", "bodies"))
def test_bodies_are_what_the_protobuf_runtime_writes(case: Fields) -> None:
    raw = bytes.fromhex(case["encoded"])
    assert runtime_body(case["fields"]).SerializeToString(deterministic=True) == raw
    assert generate.fields(decode_body(raw)) == case["fields"]
    assert decode_body(raw).encode() == raw
    chain = bytes.fromhex(load("transactions.json")["genesis_hash"])
    assert independent.txid(chain, raw).hex() == case["txid"]


_FIELD_OF_KIND = {
    "Transfer": "transfer",
    "Data": "data",
    "Bond": "bond",
    "Unbond": "unbond",
    "SubmitEvidence": "evidence",
    "Unjail": "unjail",
    "PostStatement": "post_statement",
    "CommitProof": "submit_proof",
    "RevealProof": "submit_proof",
    "Attest": "attest",
    "RotateKey": "rotate_key",
}


def runtime_body(fields: Fields) -> transaction_pb2.TransactionBody:
    """The same body through protobuf's own JSON form and runtime."""
    kind = {name: value for name, value in fields["kind"].items() if name != "kind"}
    document = {name: value for name, value in fields.items() if name != "kind"}
    document[_FIELD_OF_KIND[fields["kind"]["kind"]]] = kind
    message = transaction_pb2.TransactionBody()
    ParseDict(_with_base64(document), message)
    return message


def _with_base64(value: Any, name: str = "") -> Any:
    import base64

    if isinstance(value, dict):
        return {key: _with_base64(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_base64(item, name) for item in value]
    if isinstance(value, str) and name != "verifier":
        return base64.b64encode(bytes.fromhex(value)).decode()
    return value


@pytest.mark.parametrize("case", cases("transactions.json", "transactions"))
def test_transactions_have_the_bytes_and_ids_of_their_layout(case: Fields) -> None:
    fields, chain = case["fields"], bytes.fromhex(load("transactions.json")["genesis_hash"])
    encoded = independent.transaction(fields)
    assert encoded.hex() == case["encoded"]
    body = bytes.fromhex(fields["body"])
    assert (b"trellis/tx/1" + chain + body).hex() == case["signing_bytes"]
    txid = independent.txid(chain, body)
    leaf = independent.witness_leaf(
        fields["alg_id"], bytes.fromhex(fields["public_key"]), bytes.fromhex(fields["signature"])
    )
    assert (txid.hex(), leaf.hex()) == (case["txid"], case["witness_leaf"])
    assert independent.h("trellis/wtx/1", txid, leaf).hex() == case["witness_id"]
    transaction = decode_transaction(encoded)
    assert generate.fields(transaction) == fields
    if transaction.public_key:
        assert all(fake_verify_all(transaction.checks(Hash(chain), transaction.public_key)))
        assert transaction.carried_key_is_senders()


def test_a_proof_is_committed_to_by_the_documented_hash() -> None:
    case = load("transactions.json")["commitment"]
    f = {name: bytes.fromhex(value) for name, value in case["fields"].items() if name not in ("kind", "cost_limit")}
    sender = bytes.fromhex(case["sender"])
    preimage = (sender, f["statement_id"], f["salt"], independent.lp(f["proof"]))
    assert independent.h("trellis/proof-commit/1", *preimage).hex() == case["commitment"]


@pytest.mark.parametrize("case", cases("headers.json", "headers"))
def test_headers_have_the_bytes_of_their_layout(case: Fields) -> None:
    encoded = independent.header(case["fields"])
    assert len(encoded) == 458
    assert encoded.hex() == case["encoded"]
    assert independent.h("trellis/header/1", encoded).hex() == case["block_hash"]
    assert generate.fields(decode_header(encoded)) == case["fields"]


def test_a_seal_is_target_and_nonce() -> None:
    case = load("headers.json")["seal"]
    encoded = case["fields"]["target"].to_bytes(32, "big") + independent.u64(case["fields"]["nonce"])
    assert encoded.hex() == case["encoded"]
    assert independent.h("trellis/seal/1", encoded).hex() == case["hash"]
    assert generate.fields(decode_seal(encoded)) == case["fields"]


def test_a_block_has_the_bytes_of_its_layout_and_its_header_the_roots() -> None:
    case = load("block.json")
    fields = case["fields"]
    parts = [independent.transaction(item) for item in fields["transactions"]]
    encoded = independent.header(fields["header"]) + independent.lp(
        independent.certificate(fields["parent_certificate"])
    )
    encoded += independent.lp(b"") + independent.u32(len(parts)) + b"".join(independent.lp(part) for part in parts)
    assert encoded.hex() == case["encoded"]
    assert generate.fields(decode_block(encoded)) == fields
    header, chain = fields["header"], bytes.fromhex(fields["header"]["genesis_hash"])
    raw = [
        (item["alg_id"], *(bytes.fromhex(item[n]) for n in ("public_key", "signature")))
        for item in fields["transactions"]
    ]
    witnesses = [independent.witness_leaf(*item) for item in raw]
    assert independent.merkle(witnesses).hex() == header["witness_root"]
    txids = [independent.txid(chain, bytes.fromhex(item["body"])) for item in fields["transactions"]]
    fees = [decode_body(bytes.fromhex(item["body"])).fee for item in fields["transactions"]]
    leaves = [independent.tx_leaf(txid, 0, fee) for txid, fee in zip(txids, fees, strict=True)]
    assert [leaf.hex() for leaf in leaves] == case["leaves"]
    assert independent.merkle(leaves).hex() == header["tx_root"]
    entries = [bytes.fromhex(item) for item in case["proof_entries"]]
    assert independent.proof_commitment(entries).hex() == header["proof_commitment"]
    compact = independent.u32(len(txids)) + b"".join(
        txid + witness[:8] + independent.u32(len(part))
        for txid, witness, part in zip(txids, witnesses, parts, strict=True)
    )
    assert compact.hex() == case["compact_body"]
    assert [entry.txid for entry in decode_compact_body(compact, 1 << 20)] == txids


@pytest.mark.parametrize("case", cases("votes.json", "votes"))
def test_votes_are_signed_over_the_documented_bytes(case: Fields) -> None:
    chain = bytes.fromhex(load("votes.json")["genesis_hash"])
    assert independent.vote_signing_bytes(case["fields"]["vote"], chain).hex() == case["signing_bytes"]
    encoded = independent.signed_vote(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert generate.fields(decode_signed_vote(encoded)) == case["fields"]


def test_a_validator_set_has_the_bytes_of_its_layout() -> None:
    case = load("certificates.json")["validator_set"]
    encoded = independent.validator_set(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert independent.h("trellis/validators/1", encoded).hex() == case["hash"]
    assert generate.fields(decode_validator_set(encoded)) == case["fields"]


@pytest.mark.parametrize("case", cases("certificates.json", "certificates"))
def test_certificates_have_the_bytes_of_their_layout_and_hold(case: Fields) -> None:
    document = load("certificates.json")
    encoded = independent.certificate(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert independent.h("trellis/certificate/1", encoded).hex() == case["hash"]
    certificate = decode_certificate(encoded)
    assert generate.fields(certificate) == case["fields"]
    validators = decode_validator_set(bytes.fromhex(document["validator_set"]["encoded"]))
    assert certificate.fault(Hash(bytes.fromhex(document["genesis_hash"])), validators, fake_verify_all) is None


@pytest.mark.parametrize("case", cases("messages.json"))
def test_consensus_messages_have_the_bytes_of_their_layout(case: Fields) -> None:
    encoded = independent_message(case["fields"])
    assert encoded.hex() == case["encoded"]
    message = decode_message(encoded)
    assert generate.fields(message) == case["fields"]
    assert encode_message(message) == encoded


def independent_message(f: Fields) -> bytes:
    def optional(certificate: Fields | None) -> bytes:
        return independent.lp(b"" if certificate is None else independent.certificate(certificate))

    if "height" in f:
        return b"\x05" + independent.u64(f["height"])
    if "certificate" in f:
        return b"\x04" + independent.certificate(f["certificate"])
    signed = independent.signed_vote(f["signed"])
    if "header" not in f:
        return b"\x03" + signed + optional(f["prepared"]) if "prepared" in f else b"\x02" + signed
    votes = [independent.signed_vote(vote) for vote in f["justification"]]
    packed = b"\x01" + signed + independent.header(f["header"]) + optional(f["parent_certificate"])
    packed += independent.u32(len(votes)) + b"".join(votes) + optional(f["prepared"])
    return packed + independent.lp(bytes.fromhex(f["body"]))


@pytest.mark.parametrize("case", cases("evidence.json", "evidence"))
def test_evidence_has_the_bytes_of_its_layout(case: Fields) -> None:
    encoded = independent.evidence(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert independent.h("trellis/evidence/1", encoded).hex() == case["id"]
    item = decode_evidence(encoded)
    assert generate.fields(item) == case["fields"]
    assert encode_evidence(item) == encoded
    chain = Hash(bytes.fromhex(load("evidence.json")["genesis_hash"]))
    assert item.fault(chain) is None


def test_signed_records_have_the_bytes_of_their_layouts() -> None:
    document = load("records.json")
    record, manifest, batch = (document[n] for n in ("address_record", "snapshot_manifest", "verdict_batch"))
    assert independent.address_record(record["fields"]).hex() == record["signed_bytes"]
    raw = independent.lp(bytes.fromhex(record["signed_bytes"])) + independent.lp(bytes.fromhex(record["signature"]))
    signed = decode_signed_address_record(raw)
    assert generate.fields(signed.record()) == record["fields"]
    assert fake_verify_all([signed.check()]) == [True]
    assert independent.manifest(manifest["fields"]["manifest"]).hex() == manifest["signed_bytes"]
    made = decode_signed_manifest(independent.signed_manifest(manifest["fields"]))
    assert made.encode().hex() == manifest["encoded"]
    assert fake_verify_all([made.check()]) == [True]
    encoded = independent.verdict_batch(batch["fields"])
    assert encoded.hex() == batch["encoded"]
    assert independent.h("trellis/verdicts/1", encoded).hex() == batch["id"]
    assert generate.fields(decode_verdict_batch(encoded)) == batch["fields"]


@pytest.mark.parametrize("case", cases("frames.json"))
def test_frames_have_the_bytes_of_their_layout(case: Fields) -> None:
    encoded = independent.frame(case["fields"])
    assert encoded.hex() == case["encoded"]
    assert [generate.fields(frame) for frame in FrameDecoder().feed(encoded)] == [case["fields"]]


def test_merkle_trees_are_what_their_recursive_definition_says() -> None:
    document = load("merkle.json")
    leaves = [bytes.fromhex(leaf) for leaf in document["leaves"]]
    for case in document["roots"]:
        assert independent.merkle(leaves[: case["count"]]).hex() == case["root"]
    for case in document["proof_commitments"]:
        assert independent.proof_commitment([bytes.fromhex(e) for e in case["entries"]]).hex() == case["root"]
    for case in document["proofs"]:
        assert independent.inclusion_proof(case).hex() == case["encoded"]
        assert climb(case, leaves).hex() == case["root"]


def climb(proof: Fields, leaves: list[bytes]) -> bytes:
    """Root from a proof, by the definition: missing subtrees come in the order of a left-to-right walk."""
    siblings = [bytes.fromhex(item) for item in proof["hashes"]]

    def walk(start: int, count: int) -> bytes:
        if not any(start <= index < start + count for index in proof["indices"]):
            return siblings.pop(0)
        if count == 1:
            return leaves[start]
        left = 1
        while left * 2 < count:
            left *= 2
        parts = walk(start, left), walk(start + left, count - left)
        return independent.h("trellis/merkle-node/1", *parts, independent.u64(count))

    return walk(0, proof["count"])


def test_mountain_ranges_are_what_their_definition_says() -> None:
    document = load("mmr.json")
    leaves = [bytes.fromhex(leaf) for leaf in document["leaves"]]
    assert independent.h("trellis/mmr-root/1", bytes(8)).hex() == document["empty_root"]
    roots = {case["count"]: case["root"] for case in document["roots"]}
    for case in document["roots"]:
        part = leaves[: case["count"]]
        assert independent.mmr_root(part).hex() == case["root"]
        encoded = independent.u64(case["count"]) + b"".join(independent.mmr_peaks(part))
        assert encoded.hex() == case["encoded"]
        assert decode_mmr(encoded).root.hex() == case["root"]
    for case in document["proofs"]:
        path, others = (b"".join(bytes.fromhex(item) for item in case[name]) for name in ("path", "others"))
        encoded = independent.u64(case["index"]) + independent.u64(case["count"])
        encoded += bytes([len(case["path"])]) + path + bytes([len(case["others"])]) + others
        assert encoded.hex() == case["encoded"]
        root = roots.get(case["count"], independent.mmr_root(leaves[: case["count"]]).hex())
        assert decode_mmr_proof(encoded).verifies(Hash(leaves[case["index"]]), Hash(bytes.fromhex(root)))


@pytest.mark.parametrize("case", cases("state-tree.json", "trees"))
def test_state_trees_are_what_their_definition_says(case: Fields) -> None:
    state = {bytes.fromhex(key): bytes.fromhex(value) for key, value in case["state"]}
    root, leaves, size = independent.state_root(state, case["buckets_log2"])
    assert {"hash": root.hex(), "leaves": leaves, "size_bytes": size} == case["root"]
    for proof in case["proofs"]:
        decoded = decode_state_proof(bytes.fromhex(proof["encoded"]))
        assert decoded.encode().hex() == proof["encoded"]
        value = None if proof["value"] is None else bytes.fromhex(proof["value"])
        assert decoded.lookup(bytes.fromhex(proof["key"]), Hash(root), case["buckets_log2"]) == (True, value)


def test_the_nodes_of_a_state_tree_have_the_documented_preimages() -> None:
    document = load("state-tree.json")
    empty: independent.StateNode = (independent.h("trellis/state-empty/1"), 0, 0)
    leaf = independent.state_bucket([(b"key", b"value")])
    assert empty[0].hex() == document["empty_node"]
    assert leaf[0].hex() == document["leaf_node"]["hash"]
    assert independent.state_join(leaf, empty)[0].hex() == document["joined_with_empty"]


@pytest.mark.parametrize("case", cases("schedule.json"))
def test_leaders_follow_rule_c2_as_an_independent_model_has_it(case: Fields) -> None:
    def raw(powers: dict[str, int]) -> dict[bytes, int]:
        return {bytes(address_of_name(name)): power for name, power in powers.items()}

    model = ScheduleModel(raw(case["powers"]), case["rotation_blocks"], case["demotion_heights"])
    expected = case["heights"]
    for height, step in enumerate([*case["steps"], None], start=1):
        want = expected[height - 1]
        assert model.height == want["height"] == height
        assert "".join(chr(address[0]) for address in model.order()) == want["order"]
        assert model.led == want["led"]
        assert {chr(address[0]): value for address, value in model.priority.items()} == want["priorities"]
        assert {chr(a[0]): n for a, n in model.strikes.items() if n} == want["strikes"]
        assert [[chr(entry.address[0]), entry.last_height] for entry in model.demoted] == want["demoted_until"]
        if step is not None:
            late = step["parent_certificate_late"]
            carried = None if height == 1 else model.made[height - 1].view + late
            following = None if step["following"] is None else raw(step["following"])
            model.decide(step["view"], carried, following)
    last = decode_schedule(bytes.fromhex(case["last_encoded"]))
    assert last.encode().hex() == case["last_encoded"]
    powers = case["powers"]
    for step in case["steps"]:
        powers = step["following"] or powers
    assert list(last.order(named_set(powers))) == model.order()


@pytest.mark.parametrize("case", cases("receipts.json"))
def test_receipts_have_the_bytes_of_their_layout_and_hold(case: Fields) -> None:
    encoded = independent.receipt(case["fields"])
    assert encoded.hex() == case["encoded"]
    receipt = decode_receipt(encoded)
    assert generate.fields(receipt) == case["fields"]
    assert receipt.encode() == encoded
    validators = decode_validator_set(bytes.fromhex(case["genesis_validators"]))
    chain = Hash(bytes.fromhex(case["genesis_hash"]))
    trust = Checkpoint(chain, Height(0), chain, validators)
    assert verify_receipt(receipt, trust, fake_verify_all).txid.hex() == case["txid"]


def test_objects_signed_with_real_keys_verify() -> None:
    document = load(generate.RECORDED)
    genesis = genesis_from_json(document["genesis"])
    transaction = decode_transaction(bytes.fromhex(document["transaction"]))
    assert all(verify_all(transaction.checks(genesis.hash, transaction.public_key)))
    vote = decode_signed_vote(bytes.fromhex(document["vote"]))
    validator = genesis.validators.get(vote.signer)
    assert validator is not None
    assert verify_one(vote.check(genesis.hash, validator))
    certificate = decode_certificate(bytes.fromhex(document["certificate"]))
    header = decode_header(bytes.fromhex(document["header"]))
    assert certificate.block_hash == header.hash
    assert certificate.fault(genesis.hash, genesis.validators, verify_all) is None
    receipt = decode_receipt(bytes.fromhex(document["receipt"]["file"]))
    trust = genesis_from_json(document["receipt"]["genesis"])
    assert verify_receipt(receipt, trust, verify_all).trusted == "genesis"


def test_a_planted_change_of_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the files is not vacuous."""
    from trellis import header

    monkeypatch.setattr(header, "HEADER_VERSION", 2)
    assert json.loads(generate.as_text(generate.FILES["headers.json"]())) != load("headers.json")


def test_every_file_names_what_it_holds_on_the_format_page() -> None:
    page = (generate.HERE / "README.md").read_text()
    missing = [name for name in (*generate.FILES, generate.RECORDED) if f"`{name}`" not in page]
    assert missing == []
