"""`trellis init`, `genesis`, `config`, `completion`: what stands before a node's first start."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from node.cli import init as init_module
from node.cli.exits import Exit
from node.home import open_home
from tests.node.cli.kit import PASSWORD, address_text, run, write_key
from tests.proto.client.fake_chain import make_key
from trellis.address import format_address
from trellis.crypto.keystore import ScryptCost
from trellis.crypto.policy import Role
from trellis.genesis import Genesis, genesis_from_json
from trellis.peerid import peer_id


@pytest.fixture
def folder(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys of one validator, and a password file. The real cost of a key takes half a second."""
    monkeypatch.setattr(init_module, "ScryptCost", lambda: ScryptCost(14))
    monkeypatch.setenv("TRELLIS_KEYS_DIR", str(bare / "keys"))
    write_key(bare / "keys", "ann", make_key("ann"))
    write_key(bare / "keys", "ann-vote", make_key("ann-vote"), Role.CONSENSUS_VOTE)
    write_key(bare / "keys", "ann-net", make_key("ann-net"), Role.NETWORK_IDENTITY)
    (bare / "pw").write_text(PASSWORD + "\n")
    return bare


def made_genesis(folder: Path, *more: str) -> Genesis:
    file = folder / "genesis.json"
    options = ("--name", "orchard", "--time-ms", "1700000000000", "--validator", "1000:ann:ann-vote:ann-net")
    answer = run("-o", "json", "genesis", "new", *options, *more, "--out", str(file))
    assert answer.code == Exit.OK, answer.err
    return genesis_from_json(json.loads(file.read_text()))


def test_a_genesis_is_made_of_keys_parameters_and_balances(folder: Path) -> None:
    bob = address_text("bob")
    more = ("--account", f"{bob}=2.5", "--account", "ann=1", "--param", "heartbeat_ms=5000", "--verifier", "lrat.v1")
    genesis = made_genesis(folder, *more)
    (member,) = genesis.validators.members
    assert (format_address(member.address), member.power) == (address_text("ann"), 1_000_000_000)
    assert member.public_key == make_key("ann-vote").public_key
    assert member.network_id == peer_id(make_key("ann-net").alg_id, make_key("ann-net").public_key)
    assert {format_address(a.address): a.balance for a in genesis.accounts} == {
        bob: 2_500_000,
        address_text("ann"): 1_000_000,
    }
    assert genesis.parameters.heartbeat_ms == 5_000
    assert genesis.verifiers == (("lrat.v1", b""),)


def test_a_genesis_takes_public_exports_from_other_organisations(folder: Path) -> None:
    exports = []
    for name in ("ann", "ann-vote", "ann-net"):
        run("keys", "export", name, "--as", "public", "--to", str(folder / f"{name}.pub"))
        exports.append(str(folder / f"{name}.pub"))
    plain = made_genesis(folder)
    (folder / "genesis.json").unlink()
    options = ("--name", "orchard", "--time-ms", "1700000000000", "--validator", ":".join(["1000", *exports]))
    assert run("genesis", "new", *options, "--out", str(folder / "genesis.json")).code == Exit.OK
    assert run("genesis", "hash", str(folder / "genesis.json")).out.strip() == plain.hash.hex()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--validator", "1000:ann"), "STAKE:ACCOUNT:VOTE:NETWORK"),
        (("--validator", "x:ann:ann-vote:ann-net"), "is not an amount"),
        (("--validator", "0.5:ann:ann-vote:ann-net"), "below min_stake"),
        (("--validator", "1:ann:ann-vote:ann-net", "--param", "heartbeat=1"), "unknown parameters"),
        (("--validator", "1:ann:ann-vote:ann-net", "--param", "heartbeat_ms"), "NAME=VALUE"),
        (("--validator", "1:ann:ann-vote:ann-net", "--account", "trl1x=1"), "trl1x"),
        (("--validator", "1:ann:ann-vote:ann-net", "--verifier", "z3-attest.v1=xyz"), "not hexadecimal"),
    ],
)
def test_a_genesis_that_says_something_impossible_is_not_made(
    folder: Path, options: tuple[str, ...], told: str
) -> None:
    answer = run("genesis", "new", "--name", "x", *options, "--out", str(folder / "g.json"))
    assert answer.code == Exit.USAGE, answer.err
    assert told in answer.err
    assert "hint:" in answer.err
    assert not (folder / "g.json").exists()


def test_a_genesis_is_never_overwritten_unasked(folder: Path) -> None:
    made_genesis(folder)
    options = ("--name", "other", "--validator", "1000:ann:ann-vote:ann-net", "--out", str(folder / "genesis.json"))
    assert run("genesis", "new", *options).code == Exit.LOCAL
    assert run("genesis", "new", *options, "--replace").code == Exit.OK


def test_a_genesis_is_validated_hashed_and_shown_with_the_meaning_of_its_parameters(folder: Path) -> None:
    genesis = made_genesis(folder)
    file = str(folder / "genesis.json")
    assert run("genesis", "hash", file).out == genesis.hash.hex() + "\n"
    assert run("-o", "json", "genesis", "hash", file).json["genesis_hash"] == genesis.hash.hex()
    record = run("-o", "json", "genesis", "validate", file).json
    assert (record["valid"], record["parameters"]["block_interval_ms"]) == (True, 100)
    assert "an idle network makes an empty block this often" in run("genesis", "validate", file).out
    document = json.loads((folder / "genesis.json").read_text())
    document["surprise"] = 1
    (folder / "genesis.json").write_text(json.dumps(document))
    answer = run("genesis", "validate", file)
    assert answer.code == Exit.LOCAL
    assert "unknown fields: surprise" in answer.err
    assert "hint:" in answer.err
    assert run("genesis", "hash", str(folder / "none")).code == Exit.LOCAL


def test_init_makes_a_folder_that_a_node_can_open(folder: Path) -> None:
    genesis = made_genesis(folder)
    home = folder / "home0"
    options = (
        "--genesis",
        str(folder / "genesis.json"),
        "--generate-password",
        "--moniker",
        "new",
        "--peer",
        "/ip4/1.2.3.4",
    )
    record = run("-o", "json", "init", str(home), *options).json
    assert record["genesis_hash"] == genesis.hash.hex()
    assert record["validator"] is False
    opened = open_home(home, {})
    assert format_address(opened.account) == record["account"]
    assert opened.config.node.moniker == "new"
    assert opened.config.p2p.static_peers == ("/ip4/1.2.3.4",)
    assert opened.genesis.hash == genesis.hash
    assert (home / "password").stat().st_mode & 0o077 == 0
    assert run("config", "validate", "--home", str(home)).code == Exit.OK
    again = run("init", str(home), *options)
    assert again.code == Exit.LOCAL
    assert "name another folder" in again.err


def test_init_with_the_keys_of_genesis_makes_a_validator(folder: Path) -> None:
    made_genesis(folder)
    keys = ("--account", address_text("ann"), "--consensus-key", "ann-vote", "--network-key", "ann-net")
    common = ("--genesis", str(folder / "genesis.json"), "--password-file", str(folder / "pw"))
    record = run("-o", "json", "init", str(folder / "home0"), *common, *keys).json
    assert record["validator"] is True
    opened = open_home(folder / "home0", {})
    assert opened.config.node.validator
    assert opened.consensus_key.public_key == make_key("ann-vote").public_key
    assert not (folder / "home0" / "keys" / "account.json").exists()


def test_init_refuses_what_would_only_show_as_silence(folder: Path) -> None:
    made_genesis(folder)
    write_key(folder / "keys", "other", make_key("other"), Role.CONSENSUS_VOTE)
    common = ("--genesis", str(folder / "genesis.json"), "--account", address_text("ann"))
    file = ("--password-file", str(folder / "pw"))
    home = folder / "home0"
    other = run("init", str(home), *common, *file, "--consensus-key", "other", "--network-key", "ann-net")
    assert other.code == Exit.LOCAL
    assert "--consensus-key" in other.err
    fresh = run("init", str(home), *common, *file, "--consensus-key", "ann-vote")
    assert fresh.code == Exit.LOCAL
    assert "--network-key" in fresh.err
    role = run("init", str(home), *common, *file, "--consensus-key", "ann-net")
    assert role.code == Exit.LOCAL
    assert "--role consensus-vote" in role.err
    (folder / "pw").write_text("wrong\n")
    locked = run("init", str(home), *common, *file, "--consensus-key", "ann-vote", "--network-key", "ann-net")
    assert locked.code == Exit.LOCAL
    assert "hint: give the password" in locked.err
    assert run("init", str(home), *common).code == Exit.USAGE
    assert run("init", str(home), *common, *file, "--generate-password").code == Exit.USAGE
    assert not (home / "trellis.toml").exists()


def test_config_tells_where_each_value_came_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_genesis(folder)
    home = folder / "home0"
    run("init", str(home), "--genesis", str(folder / "genesis.json"), "--generate-password", "--moniker", "ann")
    monkeypatch.setenv("TRELLIS_LOG_LEVEL", "debug")
    rows = run("-o", "json", "config", "show", "--home", str(home)).json["settings"]
    by_key = {row["key"]: row for row in rows}
    assert by_key["log.level"]["source"] == "TRELLIS_LOG_LEVEL"
    assert by_key["node.moniker"]["source"].endswith("trellis.toml")
    assert by_key["mempool.max_bytes"]["source"] == "default"
    assert all(row["meaning"] for row in rows)
    changed = run("config", "show", "--home", str(home), "--changed").out
    assert "log.level" in changed
    assert "mempool.max_bytes" not in changed
    assert "grpc.listen" in run("config", "show").out


def test_config_validate_names_what_is_missing_and_what_is_wrong(folder: Path) -> None:
    made_genesis(folder)
    home = folder / "home0"
    run("init", str(home), "--genesis", str(folder / "genesis.json"), "--generate-password")
    (home / "keys" / "network.json").unlink()
    answer = run("-o", "json", "config", "validate", "--home", str(home))
    assert answer.code == Exit.NO
    assert [problem for problem in answer.json["problems"] if "node.network_key" in problem]
    (home / "trellis.toml").write_text("[node]\nmonicker = 'x'\n")
    wrong = run("config", "validate", "--home", str(home))
    assert wrong.code == Exit.LOCAL
    assert "unknown keys monicker" in wrong.err
    assert run("config", "validate").code == Exit.USAGE
    assert run("config", "validate", "--file", str(folder / "none")).code == Exit.NOT_FOUND


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_and_installed(bare: Path, shell: str) -> None:
    script = run("completion", shell)
    assert script.code == Exit.OK
    assert f"_TRELLIS_COMPLETE={shell}_complete" in script.out
    record = run("-o", "json", "completion", shell, "--install").json
    assert record["written"].startswith(str(bare / "home"))
    assert Path(record["written"]).read_text().strip() == script.out.strip()


def test_the_bash_completion_completes_commands(bare: Path) -> None:
    words = {
        "COMP_WORDS": "trellis pe",
        "COMP_CWORD": "1",
        "_TRELLIS_COMPLETE": "bash_complete",
        "PATH": "/usr/bin:/bin",
    }
    program = Path(__file__).parents[3] / ".venv" / "bin" / "trellis"
    if not program.exists():
        pytest.skip("the console script is not installed in .venv")
    answer = subprocess.run([str(program)], env=words, capture_output=True, text=True, check=False)
    assert answer.stdout.split() == ["plain,peers"]


def test_completion_without_a_known_shell_says_which_there_are(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    answer = run("completion")
    assert answer.code == Exit.USAGE
    assert "bash, zsh or fish" in answer.err
