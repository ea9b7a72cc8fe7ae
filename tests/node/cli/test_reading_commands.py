"""What commands show of a node and its chain, in tables and as JSON; and what they say when they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from node.cli.exits import Exit
from node.cli.moments import moment
from tests.node.cli.conftest import World
from tests.node.cli.kit import PEER, address_text, run, write_key
from tests.node.cli.stored import make_home
from tests.proto.client.fake_chain import make_key
from tests.proto.client.fake_server import Refusal
from trellis.client.errors import Reason
from trellis.constants import Context
from trellis.crypto.policy import Role
from trellis.evidence import accuse_of_conflict, encode_evidence, evidence_id
from trellis.types import Hash, Height, View
from trellis.v1 import chain_pb2
from trellis.votes import SignedVote, Vote, VoteKind


def test_status_shows_who_the_node_is_and_what_is_wrong(world: World) -> None:
    world.node.problems = ["the disk is nearly full: make room"]
    record = run("-o", "json", "status").json
    assert (record["role"], record["serving"], record["sync_stage"]) == ("validator", True, "synced")
    assert record["at"]["height"] == 1
    table = run("status").out
    assert "the disk is nearly full: make room" in table
    assert "2023-11-14" in table


def test_a_nodes_texts_cannot_steer_a_terminal(world: World) -> None:
    assert "\x1b" not in run("status").out
    assert run("-o", "json", "status").json["moniker"] == "ann [31m"


def test_status_check_tells_a_script_by_its_exit_code(world: World) -> None:
    assert run("status", "--check").code == Exit.OK
    world.node.serving = False
    answer = run("-o", "json", "status", "--check")
    assert (answer.code, answer.json["serving"]) == (Exit.NO, False)
    assert run("status").code == Exit.OK


def test_an_account_is_shown_by_address_or_by_the_name_of_a_key(world: World) -> None:
    by_name = run("-o", "json", "account", "alice").json
    assert by_name == run("-o", "json", "account", address_text("alice")).json
    assert (by_name["balance"], by_name["proven"], by_name["unit_exponent"]) == ("10000000", False, 6)
    assert " 10 " in run("account", "alice").out + " "


def test_an_account_is_proven_if_asked_for(world: World) -> None:
    assert run("-o", "json", "account", "alice", "--verify").json["proven"] is True
    world.node.lie("GetAccount", _richer)
    lied_to = run("account", "alice", "--verify")
    assert lied_to.code == Exit.DISHONEST
    assert "ask another node" in lied_to.err
    assert run("account", "alice").code == Exit.OK


def _richer(answer: Any) -> None:
    answer.account.balance = "99000000000"


def test_an_accounts_history_is_listed(world: World) -> None:
    for _ in range(3):
        assert run("tx", "send", address_text("bob"), "1", "--from", "alice", "--max-fee", "1").code == Exit.OK
    record = run("-o", "json", "account", "alice", "--history", "2").json
    assert [item["block"]["height"] for item in record["transactions"]] == [4, 3]
    assert "transfer" in run("account", "alice", "--history", "5").out


def test_a_block_is_shown_by_height_by_hash_and_as_the_latest(world: World) -> None:
    run("tx", "send", address_text("bob"), "1", "--from", "alice")
    latest = run("-o", "json", "block").json
    assert (latest["height"], latest["transaction_count"], latest["final"]) == (2, 1, True)
    assert run("-o", "json", "block", "2").json == latest
    assert run("-o", "json", "block", latest["block_hash"]).json == latest
    assert run("-o", "json", "block", "2", "--verify").json["proven"] is True
    assert "transactions" not in run("-o", "json", "block", "--no-transactions").json
    table = run("block").out
    assert latest["transactions"][0]["txid"] in table
    assert "2023-11-14" in table


@pytest.mark.parametrize(
    ("which", "code"), [("99", Exit.NOT_FOUND), ("ab" * 32, Exit.NOT_FOUND), ("0", Exit.USAGE), ("zz", Exit.USAGE)]
)
def test_a_block_that_is_not_there_is_told_apart_from_nonsense(world: World, which: str, code: Exit) -> None:
    answer = run("block", which)
    assert answer.code == code
    assert "hint:" in answer.err


def test_a_block_that_the_node_cannot_prove_is_not_shown_as_proven(world: World) -> None:
    world.chain.commit()
    world.node.lie("GetBlock", _another_header)
    answer = run("block", "1", "--verify")
    assert answer.code == Exit.DISHONEST


def _another_header(answer: Any) -> None:
    raw = bytearray(answer.block.header.raw)
    raw[-1] ^= 1
    answer.block.header.raw = bytes(raw)


def test_validators_are_listed_over_all_pages_with_their_standing(world: World) -> None:
    record = run("-o", "json", "validators").json
    assert [row["index"] for row in record["validators"]] == [0, 1, 2, 3]
    assert record["total_power"] == "4000000"
    table = run("validators").out
    assert "votes" in table
    assert "jailed to 70" in table
    part = run("validators", "--limit", "2")
    assert "there are more" in part.err


def test_peers_are_listed(world: World) -> None:
    (row,) = run("-o", "json", "peers", "list").json["peers"]
    assert (row["peer_id"], row["direction"]) == (PEER, "outbound")
    assert "0.987" in run("peers", "list").out
    assert "1.5 ms" in run("peers", "list", "--all").out


ADMIN = "--admin-endpoint"


def test_peers_are_added_banned_listed_and_unbanned_through_the_admin_listener(world: World) -> None:
    admin = (ADMIN, world.node.address)
    address = f"/ip4/192.0.2.7/tcp/26600/p2p/{PEER}"
    assert run("-o", "json", "peers", "add", address, *admin).json == {"added": PEER, "address": address}
    banned = run("-o", "json", "peers", "ban", PEER, "--for", "12h", "--reason", "floods us", *admin).json
    assert (banned["reason"], banned["expires_at_ms"]) == ("floods us", 1_700_000_000_000 + 12 * 3_600_000)
    assert "floods us" in run("peers", "bans", *admin).out
    assert run("-o", "json", "peers", "bans", *admin).json["bans"] == [banned]
    assert run("peers", "unban", PEER, *admin).code == Exit.OK
    again = run("peers", "unban", PEER, *admin)
    assert again.code == Exit.NOT_FOUND
    assert run("peers", "ban", PEER, *admin).out.count("lifted") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("add", "192.0.2.7:26600"),
        ("add", "/ip4/192.0.2.7/tcp/26600"),
        ("add", "/ip4/192.0.2.7/tcp/26600/p2p/nobody"),
        ("ban", "nobody"),
        ("ban", PEER, "--for", "400d"),
        ("ban", PEER, "--for", "soon"),
        ("ban", PEER, "--reason", "x" * 257),
        ("unban", "nobody"),
    ],
)
def test_wrong_words_about_peers_are_wrong_usage_and_reach_no_node(world: World, arguments: tuple[str, ...]) -> None:
    assert run("peers", *arguments, ADMIN, world.node.address).code == Exit.USAGE
    assert world.node.calls.total() == 0


def test_the_admin_token_comes_from_a_file_or_the_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = world.folder / "token"
    token.write_text("opensesame\n")
    assert run("peers", "ban", PEER, ADMIN, world.node.address, "--admin-token-file", str(token)).code == Exit.OK
    monkeypatch.setenv("TRELLIS_ADMIN_TOKEN", "from the environment")
    assert run("peers", "unban", PEER, ADMIN, world.node.address).code == Exit.OK
    assert world.node.tokens[-2:] == ["Bearer opensesame", "Bearer from the environment"]
    remote = run("peers", "unban", PEER, ADMIN, "http://node.example:1")
    assert remote.code == Exit.USAGE
    assert "plaintext" in remote.err
    assert "from the environment" not in remote.err
    token.write_text("")
    empty = run("peers", "ban", PEER, ADMIN, world.node.address, "--admin-token-file", str(token))
    assert empty.code == Exit.LOCAL


def test_the_admin_listener_is_found_in_the_nodes_folder(world: World) -> None:
    home = make_home(world.folder / "net", blocks=0)
    config = home / "trellis.toml"
    (home / "token").write_text("opensesame")
    listen = f'[grpc]\nadmin_listen = "{world.node.address}"\nadmin_token_file = "token"\n[p2p]'
    config.write_text(config.read_text().replace("[p2p]", listen))
    assert run("peers", "ban", PEER, "--home", str(home)).code == Exit.OK
    assert world.node.tokens[-1] == "Bearer opensesame"
    nowhere = run("peers", "ban", PEER)
    assert nowhere.code == Exit.USAGE
    assert "--home DIR" in nowhere.err


def test_without_the_role_the_admin_token_is_asked_for(world: World) -> None:
    world.node.refuse("BanPeer", Refusal(Reason.ROLE_REQUIRED, {"role": "admin"}))
    answer = run("peers", "ban", PEER, ADMIN, world.node.address)
    assert answer.code == Exit.REFUSED
    assert "TRELLIS_ADMIN_TOKEN" in answer.err


def test_a_running_node_makes_the_snapshot_itself(world: World) -> None:
    record = run("-o", "json", "snapshot", "create", ADMIN, world.node.address).json
    assert (record["height"], record["path"], record["chunk_count"]) == (1, "/srv/snapshots/1", 1)


def conflict(world: World) -> Any:
    """A validator's two votes for one view."""
    member = world.chain.validators.members[0]
    votes = []
    for name in (b"one", b"two"):
        vote = Vote(VoteKind.PREPARE, Height(7), View(0), Hash(name.ljust(32, b".")))
        signature = world.chain.keys[member.address].sign(
            vote.signing_bytes(world.chain.genesis.hash), Context.VOTE.value
        )
        votes.append(SignedVote(vote, member.address, signature))
    one, other = votes
    return accuse_of_conflict(one, other, world.chain.genesis.hash)


def test_evidence_is_listed_and_explained_from_its_own_bytes(world: World) -> None:
    found = conflict(world)
    data = encode_evidence(found)
    world.node.evidence = [
        chain_pb2.EvidenceRecord(
            evidence_id=evidence_id(found).hex(),
            kind=chain_pb2.EVIDENCE_KIND_EQUIVOCATION,
            accused=address_text("validator 0"),
            height=7,
            slashed="200000",
            evidence=data,
        )
    ]
    (row,) = run("-o", "json", "evidence", "list").json["evidence"]
    assert (row["kind"], row["slashed"]) == ("equivocation", "200000")
    assert "0.2" in run("evidence", "list", "--kind", "equivocation", "--pending").out
    told = run("-o", "json", "evidence", "explain", evidence_id(found).hex())
    assert "An honest validator signs one of them" in told.json["explanation"]
    assert told.json["signatures"].startswith("verify")
    world.node.stop()
    for name, content in (("binary", data), ("digits", data.hex().encode())):
        (world.folder / name).write_bytes(content)
        assert run("-o", "json", "evidence", "explain", str(world.folder / name)).json["explanation"]
    assert "PREPARE in view 0" in run("evidence", "explain", str(world.folder / "binary")).out


def test_false_evidence_proves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(encode_evidence(conflict(world)))
    data[-1] ^= 1
    file = world.folder / "evidence"
    file.write_bytes(data)
    answer = run("-o", "json", "evidence", "explain", str(file))
    assert answer.code == Exit.NO
    assert "bad signature" in answer.json["signatures"]
    monkeypatch.delenv("TRELLIS_GENESIS")
    assert "not checked" in run("-o", "json", "evidence", "explain", str(file)).json["signatures"]
    file.write_bytes(b"nonsense")
    assert run("evidence", "explain", str(file)).code == Exit.NO


def test_evidence_that_nobody_has_is_not_found(world: World) -> None:
    assert run("evidence", "explain", "ab" * 32).code == Exit.NOT_FOUND
    assert run("evidence", "explain", "nowhere.bin").code == Exit.USAGE
    assert run("evidence", "list", "--accused", "trl1x").code == Exit.USAGE


def test_moments_are_shown_even_where_they_make_no_sense() -> None:
    assert moment(0) == "-"
    assert moment(1_700_000_000_000) == "2023-11-14 22:13:20 UTC"
    assert moment(2**64 - 1) == f"{2**64 - 1} ms since 1970"


def test_a_key_of_another_role_has_an_address_too(world: World, tmp_path: Path) -> None:
    write_key(world.keys, "vote", make_key("vote"), Role.CONSENSUS_VOTE)
    assert run("-o", "json", "account", "vote").json["address"] == address_text("vote")
    assert run("account", "nobody").code == Exit.NOT_FOUND
