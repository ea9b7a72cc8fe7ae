"""`python -m trellis verify`: says whether a receipt holds, under which trust, and needs neither network nor node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chains import Member, ReceiptStory, receipt_story, set_of
from tests.signing import real_signer
from trellis.__main__ import CAVEAT_CHECKPOINT, CAVEAT_GENESIS, main
from trellis.address import format_address
from trellis.outcome import Outcome
from trellis.receipt import Checkpoint
from trellis.types import Hash, Height

SETS = [[Member(real_signer(10 * epoch + place), 10) for place in range(3)] for epoch in range(2)]
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def story() -> ReceiptStory:
    return receipt_story(SETS)


@pytest.fixture
def files(story: ReceiptStory, tmp_path: Path) -> Path:
    (tmp_path / "receipt.bin").write_bytes(story.receipt.encode())
    (tmp_path / "genesis.json").write_text(json.dumps(story.genesis.to_json()))
    checkpoint = Checkpoint(story.genesis.hash, Height(10), Hash(bytes(32)), set_of(SETS[1]))
    (tmp_path / "checkpoint.json").write_text(json.dumps(checkpoint.to_json()))
    (tmp_path / "late.bin").write_bytes(replace(story.receipt, transitions=()).encode())
    return tmp_path


def test_a_receipt_that_holds_is_explained(
    files: Path, story: ReceiptStory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(files / "receipt.bin"), "--genesis", str(files / "genesis.json")]) == 0
    text = capsys.readouterr().out
    for part in (
        "VALID",
        story.receipt.txid.hex(),
        "transfer",
        "executed",
        "block 11",
        story.genesis.hash.hex(),
        "30 of 30",
        "trusted   genesis",
        CAVEAT_GENESIS,
    ):
        assert part in text


def test_json_says_the_same_to_programs(files: Path, story: ReceiptStory, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(files / "receipt.bin"), "--genesis", str(files / "genesis.json"), "--output", "json"]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is True
    assert answer["txid"] == story.receipt.txid.hex()
    assert answer["outcome"] == "OK"
    assert answer["height"] == 11
    assert answer["trusted"] == "genesis"
    assert answer["caveat"] == CAVEAT_GENESIS
    assert answer["sender"].startswith("trl1")


def test_a_checkpoint_is_named_as_the_trust_that_was_used(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", str(files / "late.bin"), "--checkpoint", str(files / "checkpoint.json")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "checkpoint at height 10" in text
    assert CAVEAT_CHECKPOINT in text


def test_the_receipt_of_a_failed_transaction_does_not_look_like_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.chains import commit
    from trellis.block import transaction_leaf
    from trellis.merkle import prove_inclusion

    story = receipt_story(SETS[:1])
    leaf = transaction_leaf(story.receipt.txid, Outcome.INSUFFICIENT_FUNDS, 5)
    header = replace(story.receipt.header, tx_root=leaf)
    failed = replace(
        story.receipt,
        outcome=Outcome.INSUFFICIENT_FUNDS,
        fee=5,
        path=prove_inclusion([leaf], [0]),
        header=header,
        certificate=commit(header, SETS[0]),
    )
    (tmp_path / "failed.bin").write_bytes(failed.encode())
    (tmp_path / "genesis.json").write_text(json.dumps(story.genesis.to_json()))
    assert main(["verify", str(tmp_path / "failed.bin"), "--genesis", str(tmp_path / "genesis.json")]) == 0
    assert "FAILED with INSUFFICIENT_FUNDS" in capsys.readouterr().out


@pytest.mark.parametrize("output", ["text", "json"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("late.bin", "unknown_set"),
        ("genesis.json", "malformed"),
        ("changed.bin", "certificate"),
        ("cut.bin", "malformed"),
    ],
)
def test_a_receipt_that_does_not_hold_is_refused_with_a_reason(
    files: Path, name: str, reason: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (files / "receipt.bin").read_bytes()
    (files / "cut.bin").write_bytes(data[:-1])
    in_signature = data.index(real_size := (3_309).to_bytes(4, "big")) + len(real_size) + 10
    flipped = bytes([data[in_signature] ^ 1])
    (files / "changed.bin").write_bytes(data[:in_signature] + flipped + data[in_signature + 1 :])
    arguments = ["verify", str(files / name), "--genesis", str(files / "genesis.json"), "--output", output]
    assert main(arguments) == 1
    text = capsys.readouterr().out
    if output == "json":
        answer = json.loads(text)
        assert answer["valid"] is False
        assert answer["fault"] == reason
        assert answer["detail"]
    else:
        assert text.startswith(f"INVALID ({reason}): ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param([], "required", id="no command"),
        pytest.param(["verify"], "RECEIPT", id="no receipt"),
        pytest.param(["verify", "receipt.bin"], "--genesis --checkpoint", id="no trust"),
        pytest.param(
            ["verify", "receipt.bin", "--genesis", "genesis.json", "--checkpoint", "checkpoint.json"],
            "not allowed with",
            id="two trusts",
        ),
        pytest.param(
            ["verify", "receipt.bin", "--genesis", "nowhere.json"], "cannot read genesis", id="no such genesis"
        ),
        pytest.param(
            ["verify", "nowhere.bin", "--genesis", "genesis.json"], "cannot read receipt", id="no such receipt"
        ),
        pytest.param(["verify", ".", "--genesis", "genesis.json"], "cannot read receipt", id="a folder"),
        pytest.param(["verify", "receipt.bin", "--genesis", "receipt.bin"], "is not JSON", id="no JSON"),
        pytest.param(["verify", "receipt.bin", "--genesis", "checkpoint.json"], "unknown fields", id="no genesis"),
        pytest.param(
            ["verify", "receipt.bin", "--checkpoint", "genesis.json"], "exactly the fields", id="no checkpoint"
        ),
        pytest.param(["verify", "receipt.bin", "--checkpoint", "list.json"], "not a JSON object", id="a list"),
    ],
)
def test_a_command_that_makes_no_sense_says_what_is_wrong(
    files: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    (files / "list.json").write_text("[]")
    try:
        code: int | str | None = main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


WITHOUT_THE_NODE = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in {forbidden!r} or name in {modules!r}:
            raise ImportError("forbidden here: " + name)
sys.meta_path.insert(0, Forbid())
import socket
def refuse(*arguments, **named):
    raise OSError("no network here")
socket.socket.connect = refuse
from trellis.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_verifying_needs_neither_grpc_nor_protobuf_nor_the_node_nor_a_network(files: Path) -> None:
    forbidden = {"grpc", "google", "node", "p2p", "state", "consensus", "trio", "libp2p", "multiprocessing", "pqcrypto"}
    code = WITHOUT_THE_NODE.format(forbidden=forbidden, modules={"trellis.client", "trellis.v1"})
    command = [sys.executable, "-c", code, "verify", "receipt.bin", "--genesis", "genesis.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=files, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("VALID")


def test_the_module_runs_as_a_program(files: Path) -> None:
    command = [sys.executable, "-m", "trellis", "verify", "late.bin", "--genesis", "genesis.json"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "proto")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=files, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("INVALID (unknown_set)")


def test_addresses_are_shown_as_people_write_them(
    files: Path, story: ReceiptStory, capsys: pytest.CaptureFixture[str]
) -> None:
    from trellis.transaction import decode_body

    main(["verify", str(files / "receipt.bin"), "--genesis", str(files / "genesis.json")])
    assert format_address(decode_body(story.receipt.body).sender) in capsys.readouterr().out
