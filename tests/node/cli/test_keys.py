"""`trellis keys`: secrets go in and out only where they should, and every refusal says what to do."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from node.cli import keyring, trellis
from node.cli import keys as keys_module
from node.cli.exits import CommandFailed, Exit
from trellis.crypto.algorithms import AlgId
from trellis.crypto.cold import Expected, decode_cold_certificate, refusal
from trellis.crypto.keystore import ScryptCost, read_keystore
from trellis.crypto.phrase import phrases_to_secret
from trellis.crypto.policy import Role
from trellis.crypto.schemes import scheme, verify_one
from trellis.types import Hash

VECTORS = Path(__file__).parents[2] / "vectors" / "crypto"
PHRASES = {case["algorithm"]: case for case in json.loads((VECTORS / "phrases.json").read_text())["cases"]}
PASSWORD = "swordfish"
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real cost takes half a second a key."""
    monkeypatch.setattr(keys_module, "ScryptCost", lambda: ScryptCost(14))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A command without a terminal, with its own directory and a password file, answering in JSON."""
    (tmp_path / "password").write_text(PASSWORD + "\n")

    def invoke(*arguments: str, password: bool = True, **options: Any) -> Result:
        env = {"TRELLIS_KEYS_DIR": str(tmp_path / "keys")}
        if password:
            env["TRELLIS_KEY_PASSWORD_FILE"] = str(tmp_path / "password")
        return CliRunner().invoke(
            trellis, ["--output", "json", "keys", *arguments], env=env, standalone_mode=False, **options
        )

    return invoke


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that somebody is there to answer prompts."""
    monkeypatch.setattr(keyring, "is_interactive", lambda: True)
    monkeypatch.setattr(keys_module, "may_show_secrets", lambda: True)


def test_a_pipe_behind_a_terminals_user_is_shown_no_secret(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "is_interactive", lambda: True)
    record = run("new", "alice", "--output", "table")
    assert "back the key up" in record.stderr
    assert failure(run("export", "alice", "--as", "secret")).code is Exit.USAGE


def answer(result: Result) -> dict[str, Any]:
    assert result.exception is None, result.output + result.stderr
    record: dict[str, Any] = json.loads(result.stdout)
    return record


@dataclass(frozen=True)
class Failed:
    """How `main` would end: the exit code, and all that is shown."""

    code: Exit
    message: str


def failure(result: Result) -> Failed:
    match result.exception:
        case CommandFailed() as failed:
            return Failed(Exit(failed.code), f"{failed.message}\n{failed.hint}")
        case click.UsageError() as misuse:
            return Failed(Exit.USAGE, misuse.format_message())
        case other:
            raise AssertionError(f"it did not fail as a command does: {other!r} {result.output}")


def test_a_new_key_is_stored_encrypted_and_private(run: Run, tmp_path: Path) -> None:
    record = answer(run("new", "alice", "--label", "spending"))
    path = tmp_path / "keys" / "alice.key.json"
    assert record["file"] == str(path)
    assert (record["role"], record["algorithm"], record["label"]) == ("account", "ml-dsa-65", "spending")
    assert record["address"].startswith("trl1")
    assert record["recovery_phrases"] is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = read_keystore(path).unlock(PASSWORD)
    assert key.public_key.hex() == record["public_key"]


def test_the_phrase_of_a_new_key_is_shown_when_asked_for_and_leads_back_to_it(run: Run) -> None:
    record = answer(run("new", "alice", "--show-phrase"))
    (phrase,) = record["recovery_phrases"]
    key = scheme(AlgId.ML_DSA_65).from_secret(phrases_to_secret(phrase))
    assert key.public_key.hex() == record["public_key"]


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_the_phrase_is_shown_once_and_passwords_are_asked_for(run: Run) -> None:
    shown = run("new", "alice", "--output", "table", password=False, input=f"{PASSWORD}\n{PASSWORD}\n")
    assert shown.exit_code == 0
    assert "recovery phrases" in shown.stdout
    assert PASSWORD not in shown.output
    listed = run("list", "--output", "table")
    exported = run("export", "alice", "--as", "phrase", password=False, input=f"{PASSWORD}\n")
    (phrase,) = json.loads(exported.stdout)["phrase"]
    assert phrase.split()[0] in shown.stdout
    assert phrase.split()[0] not in listed.stdout


@pytest.mark.parametrize(
    ("role", "algorithm"),
    [("consensus-vote", "ml-dsa-87"), ("network-identity", "ml-dsa-65"), ("cold-certification", "slh-dsa-shake-128s")],
)
def test_every_role_has_its_algorithms(run: Run, role: str, algorithm: str) -> None:
    record = answer(run("new", "k", "--role", role, "--algorithm", algorithm))
    assert (record["role"], record["algorithm"]) == (role, algorithm)


def test_an_algorithm_that_can_never_serve_the_role_is_wrong_usage(run: Run) -> None:
    failed = failure(run("new", "k", "--role", "consensus-vote", "--algorithm", "slh-dsa-shake-128s"))
    assert failed.code is Exit.USAGE
    assert "too slow" in failed.message


def test_cold_keys_are_slh_dsa_unless_told(run: Run) -> None:
    assert answer(run("new", "cold", "--role", "cold-certification"))["algorithm"] == "slh-dsa-shake-128s"


@pytest.mark.parametrize("name", ["../alice", "a/b", "", ".hidden", "x" * 65, "tab\t"])
def test_a_name_that_leaves_the_directory_or_hides_is_refused(run: Run, name: str) -> None:
    failed = failure(run("new", name))
    assert failed.code is Exit.USAGE
    assert "no name for a key" in failed.message


def test_an_existing_key_is_never_overwritten_unless_told(run: Run, tmp_path: Path) -> None:
    first = answer(run("new", "alice"))
    failed = failure(run("new", "alice"))
    assert failed.code is Exit.LOCAL
    assert "left as it is" in failed.message
    assert read_keystore(tmp_path / "keys" / "alice.key.json").public_key.hex() == first["public_key"]
    assert answer(run("new", "alice", "--replace"))["public_key"] != first["public_key"]


def test_without_a_terminal_or_a_password_file_the_error_says_what_to_give(run: Run) -> None:
    failed = failure(run("new", "alice", password=False))
    assert failed.code is Exit.USAGE
    assert "--password-file" in failed.message
    assert "TRELLIS_KEY_PASSWORD_FILE" in failed.message


def test_a_password_is_not_accepted_on_the_command_line() -> None:
    options = {o for command in keys_module.keys.commands.values() for p in command.params for o in p.opts}
    assert "--password" not in options
    assert "--secret" not in options


def test_the_two_password_prompts_of_a_new_key_must_agree(run: Run, terminal: None) -> None:
    assert run("new", "alice", password=False, input="one\ntwo\nthree\nthree\n").exit_code == 0


def test_a_wrong_password_is_a_local_error_that_says_so(run: Run, tmp_path: Path) -> None:
    answer(run("new", "alice"))
    (tmp_path / "password").write_text("wrong")
    failed = failure(run("export", "alice", "--as", "secret", "--to", str(tmp_path / "s")))
    assert failed.code is Exit.LOCAL
    assert "wrong password" in failed.message
    assert not (tmp_path / "s").exists()


def test_a_damaged_key_file_is_called_damaged_and_the_backup_is_named(run: Run, tmp_path: Path) -> None:
    answer(run("new", "alice"))
    path = tmp_path / "keys" / "alice.key.json"
    path.write_bytes(path.read_bytes().replace(b'"n": 16384', b'"n": 32768'))
    failed = failure(run("export", "alice"))
    assert failed.code is Exit.LOCAL
    assert "checksum" in failed.message
    assert "backup" in failed.message
    (row,) = answer(run("list"))["keys"]
    assert row["name"] == "alice"
    assert "checksum" in row["problem"]


def test_a_missing_key_is_not_found(run: Run) -> None:
    failed = failure(run("export", "nobody"))
    assert failed.code is Exit.NOT_FOUND
    assert "trellis keys list" in failed.message


def test_list_shows_what_may_be_known_without_a_password(run: Run) -> None:
    made = [answer(run("new", name)) for name in ("bob", "alice")]
    listed = answer(run("list", password=False))["keys"]
    assert [row["name"] for row in listed] == ["alice", "bob"]
    assert {row["address"] for row in listed} == {record["address"] for record in made}
    assert all(row["problem"] is None for row in listed)
    assert answer(run("list", "--dir", "/nowhere"))["keys"] == []


@pytest.mark.parametrize("form", ["phrase", "secret"])
def test_without_a_terminal_a_secret_goes_to_a_private_file_or_nowhere(run: Run, tmp_path: Path, form: str) -> None:
    answer(run("new", "alice"))
    refused = failure(run("export", "alice", "--as", form))
    assert refused.code is Exit.USAGE
    assert "--to FILE" in refused.message
    target = tmp_path / "out"
    written = run("export", "alice", "--as", form, "--to", str(target))
    assert answer(written)["written"] == str(target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_text().strip() not in written.output


@pytest.mark.parametrize("form", ["phrase", "secret", "keystore"])
@pytest.mark.parametrize("alg", ["ML_DSA_65", "ML_DSA_87", "SLH_DSA_SHAKE_128S"])
def test_whatever_is_exported_is_imported_as_the_same_key(run: Run, tmp_path: Path, form: str, alg: str) -> None:
    algorithm = scheme(AlgId[alg]).name.lower()
    made = answer(run("new", "one", "--algorithm", algorithm))
    answer(run("export", "one", "--as", form, "--to", str(tmp_path / "out")))
    source = {"phrase": "--phrase-file", "secret": "--secret-file", "keystore": "--keystore"}[form]
    told = [] if form == "keystore" else ["--algorithm", algorithm]
    back = answer(run("import", "two", source, str(tmp_path / "out"), *told))
    assert back["public_key"] == made["public_key"]
    assert read_keystore(Path(back["file"])).unlock(PASSWORD).public_key.hex() == made["public_key"]


def test_two_phrases_are_taken_for_slh_dsa_without_being_told(run: Run, tmp_path: Path) -> None:
    case = PHRASES["SLH_DSA_SHAKE_128S"]
    (tmp_path / "phrases").write_text("\n".join(case["phrases"]))
    record = answer(run("import", "cold", "--phrase-file", str(tmp_path / "phrases"), "--role", "cold-certification"))
    assert (record["algorithm"], record["public_key"]) == ("slh-dsa-shake-128s", case["public_key"])


def test_phrases_in_the_wrong_order_are_found_before_anything_is_stored(run: Run, tmp_path: Path) -> None:
    (tmp_path / "phrases").write_text("\n".join(reversed(PHRASES["SLH_DSA_SHAKE_128S"]["phrases"])))
    failed = failure(run("import", "cold", "--phrase-file", str(tmp_path / "phrases")))
    assert failed.code is Exit.LOCAL
    assert "in the order" in failed.message
    assert not (tmp_path / "keys").exists()


@pytest.mark.usefixtures("terminal")
def test_a_phrase_that_is_asked_for_is_not_echoed_and_typos_are_named_by_position(run: Run) -> None:
    (phrase,) = PHRASES["ML_DSA_65"]["phrases"]
    record = run("import", "alice", "--phrase", input=f"{phrase}\n")
    assert answer(record)["public_key"] == PHRASES["ML_DSA_65"]["public_key"]
    assert phrase.split()[0] not in record.output
    words = phrase.split()
    words[6] = "abandonn"
    failed = failure(run("import", "bob", "--phrase", input=" ".join(words) + "\n"))
    assert failed.code is Exit.LOCAL
    assert "word 7" in failed.message
    assert "abandonn" not in failed.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"zz", "not hexadecimal"),
        (b"00", "has 32 bytes, not 1"),
        (b"\xff\xfe", "no text"),
        (b"0" * 40_000, "too large"),
    ],
)
def test_a_secret_file_that_holds_no_secret_is_refused(run: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    failed = failure(run("import", "alice", "--secret-file", str(tmp_path / "secret")))
    assert failed.code is Exit.LOCAL
    assert message in failed.message


def test_the_source_of_an_import_is_given_exactly_once(run: Run) -> None:
    for arguments in ((), ("--phrase", "--secret-file", "x")):
        failed = failure(run("import", "alice", *arguments))
        assert failed.code is Exit.USAGE
        assert "--phrase-file FILE" in failed.message


def test_importing_a_key_file_with_another_password_stores_nothing(run: Run, tmp_path: Path) -> None:
    source = VECTORS / "keystores" / "ml-dsa-65.key.json"
    failed = failure(run("import", "alice", "--keystore", str(source)))
    assert "wrong password" in failed.message
    assert not (tmp_path / "keys").exists()
    (tmp_path / "password").write_text("correct horse battery stäple\n")
    assert answer(run("import", "alice", "--keystore", str(source)))["label"] == "spending — Zoë"


def test_a_label_cannot_paint_the_terminal_or_break_the_table(run: Run) -> None:
    failed = failure(run("new", "alice", "--label", "\x1b[31mred"))
    assert failed.code is Exit.USAGE
    answer(run("new", "bob", "--label", "[/red] [bold]"))
    shown = run("list", "--output", "table")
    assert shown.exit_code == 0
    assert "[/red]" in shown.output


GENESIS = "11" * 32


def test_a_cold_key_certifies_a_hot_key_from_its_public_export(run: Run, tmp_path: Path) -> None:
    cold = answer(run("new", "cold", "--role", "cold-certification"))
    hot = answer(run("new", "hot", "--role", "network-identity"))
    answer(run("export", "hot", "--to", str(tmp_path / "hot.json"), password=False))
    certificate_file = tmp_path / "hot.cert"
    arguments = ("--genesis-hash", GENESIS, "--days", "3", "--to", str(certificate_file))
    record = answer(run("certify", "cold", str(tmp_path / "hot.json"), *arguments))
    certificate = decode_cold_certificate(certificate_file.read_bytes())
    assert verify_one(certificate.check())
    expected = Expected(
        Hash(bytes.fromhex(GENESIS)), Role.NETWORK_IDENTITY, AlgId.ML_DSA_65, bytes.fromhex(hot["public_key"])
    )
    assert refusal(certificate, expected, certificate.hot.not_before_s, 0) is None
    assert certificate.hot.not_after_s - certificate.hot.not_before_s == 3 * 86_400
    assert certificate.hot.serial == record["serial"] == certificate.hot.not_before_s
    assert record["peer_id"] == cold["peer_id"]
    assert record["hot_fingerprint"] == hot["fingerprint"]
    again = failure(run("certify", "cold", "hot", *arguments))
    assert "left as it is" in again.message


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("hot", "hot", "--genesis-hash", GENESIS), Exit.LOCAL, "not for cold certification"),
        (("cold", "hot", "--genesis-hash", "12"), Exit.USAGE, "64 hexadecimal digits"),
        (("cold", "nothing", "--genesis-hash", GENESIS), Exit.NOT_FOUND, "neither a key here nor a file"),
        (("cold", "{password}", "--genesis-hash", GENESIS), Exit.LOCAL, "no exported public key"),
        (("cold", "hot", "--genesis-hash", GENESIS, "--days", "8"), Exit.USAGE, "1<=x<=7"),
    ],
)
def test_what_cannot_be_certified_is_refused_with_a_way_out(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: Exit, message: str
) -> None:
    answer(run("new", "cold", "--role", "cold-certification"))
    answer(run("new", "hot", "--role", "network-identity"))
    given = [argument.format(password=tmp_path / "password") for argument in arguments]
    failed = failure(run("certify", *given, "--to", str(tmp_path / "hot.cert")))
    assert failed.code is code
    assert message in failed.message
    assert not (tmp_path / "hot.cert").exists()


def test_no_output_or_file_but_the_asked_for_ones_holds_a_secret(run: Run, tmp_path: Path) -> None:
    outputs = [run("new", "alice").output, run("list").output, run("export", "alice").output]
    secret = read_keystore(tmp_path / "keys" / "alice.key.json").unlock(PASSWORD).secret().hex()
    files = [path.read_text() for path in (tmp_path / "keys").iterdir()]
    assert all(secret not in text and PASSWORD not in text for text in outputs + files)


def test_the_real_program_reports_a_missing_password_without_a_traceback(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from node.cli import main; main()",
        "keys",
        "new",
        "alice",
        "--dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == Exit.USAGE
    assert done.stderr.startswith("error: a password is needed")
    assert "hint: give --password-file FILE" in done.stderr
    assert list(tmp_path.iterdir()) == []
