"""Commands that work on a node's folder: with a real store in it, made by the ledger."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from node.cli import rollback as rollback_module
from node.cli.exits import Exit
from state.store.lmdb_store import DATA_NAME, LmdbStore
from tests.node.cli.kit import run
from tests.node.cli.stored import BLOCKS, make_home, store_of
from trellis.address import format_address
from trellis.genesis import genesis_from_json
from trellis.transaction import decode_transaction


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("net"))


@pytest.fixture
def home(made: Path, bare: Path) -> Path:
    """A copy, for each test its own."""
    shutil.copytree(made.parent, bare / "net")
    return bare / "net" / "node0"


def test_inspect_shows_where_a_stopped_node_stands(home: Path) -> None:
    record = run("-o", "json", "inspect", "--home", str(home)).json
    assert (record["height"], record["transactions"], record["certified"]) == (BLOCKS, BLOCKS, True)
    assert record["faults"] == []
    assert record["log_height"] is None
    assert "height" in run("inspect", "--home", str(home)).out
    assert run("-o", "json", "inspect", "--full", "--home", str(home)).json["checked"] == "every row"


def test_inspect_finds_what_is_damaged_and_says_so_with_exit_code_1(home: Path) -> None:
    data = store_of(home) / DATA_NAME
    raw = bytearray(data.read_bytes())
    at = raw.find(b"note 3")
    raw[at] ^= 1
    data.write_bytes(raw)
    answer = run("-o", "json", "inspect", "--full", "--home", str(home))
    assert answer.code == Exit.NO
    assert any("checksum" in fault for fault in answer.json["faults"])


def test_commands_for_a_stopped_node_refuse_a_running_one(home: Path) -> None:
    store = LmdbStore(store_of(home))
    try:
        for command in (("inspect",), ("rollback", "--yes")):
            answer = run(*command, "--home", str(home))
            assert answer.code == Exit.LOCAL
            assert "stop it first" in answer.err
        # In a process of its own: the engine cannot open one file twice in one process.
        export = [sys.executable, "-c", "from node.cli import main; main()", "export", "blocks", "--home", str(home)]
        beside = subprocess.run(export, capture_output=True, text=True, check=False)
        assert (beside.returncode, len(beside.stdout.splitlines())) == (Exit.OK, BLOCKS + 1)
    finally:
        store.close()


def test_a_folder_without_a_node_or_a_store_is_told_apart(bare: Path, home: Path) -> None:
    nothing = run("inspect", "--home", str(bare / "none"))
    assert nothing.code == Exit.NOT_FOUND
    assert "trellis init" in nothing.err
    shutil.rmtree(store_of(home))
    for command in (("inspect",), ("export", "state"), ("rollback", "--yes"), ("snapshot", "create")):
        answer = run(*command, "--home", str(home))
        assert answer.code == Exit.NOT_FOUND, answer.err
        assert "trellis start" in answer.err
    assert not store_of(home).exists()


def test_rollback_undoes_blocks_and_tells_how_far_it_can(home: Path) -> None:
    record = run("-o", "json", "rollback", "--home", str(home), "--blocks", "2", "--yes").json
    assert (record["height_before"], record["height"]) == (BLOCKS, BLOCKS - 2)
    assert run("-o", "json", "inspect", "--full", "--home", str(home)).json["height"] == BLOCKS - 2
    far = run("rollback", "--home", str(home), "--blocks", "99", "--yes")
    assert far.code == Exit.USAGE
    assert "undo fewer" in far.err


def test_rollback_asks_on_a_terminal_and_wants_yes_elsewhere(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = run("rollback", "--home", str(home))
    assert silent.code == Exit.USAGE
    assert "add --yes" in silent.err
    monkeypatch.setattr(rollback_module, "is_interactive", lambda: True)
    assert run("rollback", "--home", str(home), stdin=b"n\n").code == Exit.INTERRUPTED
    assert run("-o", "json", "inspect", "--home", str(home)).json["height"] == BLOCKS
    assert run("rollback", "--home", str(home), stdin=b"y\n").code == Exit.OK


def test_export_writes_blocks_that_can_be_read_back(home: Path, bare: Path) -> None:
    answer = run("-o", "json", "export", "blocks", "--home", str(home), "--out", str(bare / "blocks.jsonl"))
    assert answer.json["lines"] == BLOCKS
    about, *blocks = [json.loads(line) for line in (bare / "blocks.jsonl").read_text().splitlines()]
    assert (about["trellis_export"], about["height"]) == ("blocks", BLOCKS)
    assert [block["height"] for block in blocks] == list(range(1, BLOCKS + 1))
    assert blocks[1]["parent_hash"] == blocks[0]["block_hash"]
    item = blocks[2]["transactions"][0]
    assert (item["kind"], item["outcome"], item["nonce"]) == ("data", "OK", 2)
    genesis_hash = bytes.fromhex(about["genesis_hash"])
    assert decode_transaction(bytes.fromhex(item["raw"])).txid(genesis_hash).hex() == item["txid"]  # type: ignore[arg-type]
    again = run("export", "blocks", "--home", str(home), "--out", str(bare / "blocks.jsonl"))
    assert again.code == Exit.LOCAL
    assert "--replace" in again.err


def test_export_to_standard_output_is_nothing_but_lines(home: Path) -> None:
    lines = run("export", "blocks", "--home", str(home), "--from", "2", "--to", "3", "--no-bodies").out.splitlines()
    assert [json.loads(line).get("height") for line in lines] == [BLOCKS, 2, 3]
    assert "raw" not in json.loads(lines[1])["transactions"][0]
    beyond = run("export", "blocks", "--home", str(home), "--to", "99")
    assert beyond.code == Exit.NOT_FOUND
    assert f"keeps blocks 1 to {BLOCKS}" in beyond.err


def test_export_writes_every_row_of_the_state(home: Path) -> None:
    about, *rows = [json.loads(line) for line in run("export", "state", "--home", str(home)).out.splitlines()]
    genesis = genesis_from_json(json.loads((home.parent / "genesis.json").read_text()))
    accounts = [row for row in rows if row["row"] == "account"]
    assert accounts[0]["address"] == format_address(genesis.validators.members[0].address)
    assert (accounts[0]["nonce"], about["height"]) == (BLOCKS, BLOCKS)
    assert {"stake", "network", "key"} <= {row["row"] for row in rows}
    assert "unknown" not in {row["row"] for row in rows}


def test_a_snapshot_of_a_stopped_node_is_signed_by_its_key_and_listed(home: Path) -> None:
    assert run("-o", "json", "snapshot", "list", "--home", str(home)).json == {"snapshots": []}
    record = run("-o", "json", "snapshot", "create", "--home", str(home)).json
    assert (record["height"], record["problem"]) == (BLOCKS, None)
    listed = run("-o", "json", "snapshot", "list", "--home", str(home)).json["snapshots"]
    assert listed == [record]
    again = run("snapshot", "create", "--home", str(home))
    assert again.code == Exit.LOCAL
    assert "trellis snapshot list" in again.err
    (Path(record["path"]) / "chunk-00000").unlink()
    assert "0 of 1 chunks" in run("snapshot", "list", "--home", str(home)).out
    (Path(record["path"]) / "manifest").unlink()
    assert "no manifest" in run("snapshot", "list", "--home", str(home)).out


def test_a_bundle_for_a_bug_report_holds_no_secret_and_no_private_name(
    home: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = home / "trellis.toml"
    config.write_text(config.read_text().replace("[p2p]", '[grpc]\nadmin_token_file = "tokens/s3cret"\n[p2p]'))
    monkeypatch.setenv("TRELLIS_LOG_LEVEL", "debug")
    monkeypatch.setenv("TRELLIS_ADMIN_TOKEN", "opensesame")
    bundle = bare / "bug.tar.gz"
    answer = run("-o", "json", "debug", "dump", "--home", str(home), "--to", str(bundle))
    assert answer.code == Exit.OK
    with tarfile.open(bundle) as opened:
        contents = {name: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]
    everything = b"".join(contents.values()).decode()
    secrets = ["s3cret", "opensesame", "localnet", str(bare), "127.0.0.1/tcp/26600"]
    secrets += [json.loads(path.read_text())["cipher"]["ciphertext"] for path in (home / "keys").glob("*.json")]
    assert [secret for secret in secrets if secret in everything] == []
    chain = json.loads(contents["trellis-debug/chain.json"])
    assert (chain["height"], len(chain["headers"])) == (BLOCKS, BLOCKS)
    settings = {row["key"]: row for row in json.loads(contents["trellis-debug/configuration.json"])}
    assert settings["grpc.admin_token_file"]["value"] == "set"
    assert settings["log.level"] == {"key": "log.level", "value": "debug", "source": "TRELLIS_LOG_LEVEL"}


def test_a_bundle_is_made_of_a_broken_node_too(home: Path, bare: Path) -> None:
    shutil.rmtree(store_of(home))
    answer = run("debug", "dump", "--home", str(home), "--to", str(bare / "bug.tar.gz"))
    assert answer.code == Exit.OK
    with tarfile.open(bare / "bug.tar.gz") as opened:
        chain = json.loads(opened.extractfile("trellis-debug/chain.json").read())  # type: ignore[union-attr]
    assert chain == {"unreadable": "StoreMissingError"}
