"""Keys at rest: the right error for each damage, files that are whole or not there, secrets that stay inside."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.signing import real_signer
from trellis.crypto import keystore
from trellis.crypto.algorithms import AlgId
from trellis.crypto.keystore import (
    MAX_FILE_BYTES,
    MAX_LABEL_CHARS,
    CorruptKeystore,
    Keystore,
    KeystoreError,
    KeystoreExists,
    ScryptCost,
    WrongPassword,
    decode_keystore,
    lock,
    read_keystore,
    write_keystore,
    write_private_file,
)
from trellis.crypto.policy import Role
from trellis.crypto.schemes import scheme
from trellis.hashing import Tag, hash_tagged

VECTORS = Path(__file__).parents[2] / "vectors" / "crypto"
PASSWORD = "correct horse battery stäple"
CHEAP = ScryptCost(14)
KEY = real_signer(1)


@cache
def stored() -> Keystore:
    return lock(KEY, PASSWORD, role=Role.ACCOUNT, label="spending", cost=CHEAP)


def mended(change: dict[str, Any], base: bytes | None = None) -> bytes:
    """The file with some fields changed and the checksum recomputed, as an attacker would."""
    document = json.loads(base or stored().encode())
    document.pop("checksum")
    for name, value in change.items():
        if isinstance(value, dict):
            document[name] |= value
        else:
            document[name] = value
    document["checksum"] = hash_tagged(Tag.KEYSTORE, json.dumps(document, sort_keys=True).encode()).hex()
    return json.dumps(document, indent=2).encode() + b"\n"


def test_a_key_comes_back_with_its_password_and_its_role_and_label() -> None:
    store = decode_keystore(stored().encode())
    assert store == stored()
    assert (store.role, store.alg_id, store.label) == (Role.ACCOUNT, AlgId.ML_DSA_65, "spending")
    assert store.public_key == KEY.public_key
    key = store.unlock(PASSWORD)
    assert (key.alg_id, key.secret()) == (KEY.alg_id, KEY.secret())


def test_a_wrong_password_is_said_to_be_one() -> None:
    for wrong in ("", "correct horse battery staple", PASSWORD + " "):
        with pytest.raises(WrongPassword, match="intact"):
            stored().unlock(wrong)


def test_a_password_typed_in_another_unicode_form_is_the_same() -> None:
    assert stored().unlock("correct horse battery sta\u0308ple").public_key == KEY.public_key


def test_two_encryptions_of_one_key_share_neither_salt_nor_ciphertext() -> None:
    again = lock(KEY, PASSWORD, role=Role.ACCOUNT, label="spending", cost=CHEAP)
    assert again.salt != stored().salt
    assert again.ciphertext != stored().ciphertext
    assert again.password_check != stored().password_check


def test_every_single_byte_corruption_of_the_file_is_found_without_the_password() -> None:
    """Bit flips, and replacement by bytes that keep JSON whole (a digit, a space, a quote)."""
    whole = stored().encode()
    for at, byte in enumerate(whole):
        for other in {byte ^ 1, byte ^ 0x20, byte ^ 0x80, ord("0"), ord(" "), ord('"')} - {byte}:
            with pytest.raises(CorruptKeystore):
                decode_keystore(whole[:at] + bytes([other]) + whole[at + 1 :])


def test_damage_is_called_damage_and_reformatting_reformatting() -> None:
    whole = stored().encode()
    with pytest.raises(CorruptKeystore, match="damaged or edited"):
        decode_keystore(whole.replace(b"spending", b"spendinG"))
    with pytest.raises(CorruptKeystore, match="reformatted"):
        decode_keystore(whole.replace(b"\n", b"\n\n"))


def test_a_secret_under_another_public_key_is_not_handed_out() -> None:
    class Impostor:
        alg_id, public_key = KEY.alg_id, real_signer(2).public_key

        def sign(self, message: bytes, context: bytes) -> bytes:
            return KEY.sign(message, context)

        def secret(self) -> bytes:
            return KEY.secret()

    store = lock(Impostor(), PASSWORD, role=Role.ACCOUNT, cost=CHEAP)
    with pytest.raises(CorruptKeystore, match="does not belong"):
        store.unlock(PASSWORD)


def test_every_truncation_is_found_and_so_is_anything_appended() -> None:
    whole = stored().encode()
    for size in range(len(whole)):
        with pytest.raises(CorruptKeystore):
            decode_keystore(whole[:size])
    for more in (b"\n", b" ", b"{}", b"\0"):
        with pytest.raises(CorruptKeystore):
            decode_keystore(whole + more)


def test_line_ends_changed_by_a_copy_do_no_harm() -> None:
    assert decode_keystore(stored().encode().replace(b"\n", b"\r\n")) == stored()


@pytest.mark.parametrize("name", ["ciphertext", "public_key", "label", "role", "algorithm"])
def test_a_change_by_somebody_who_mended_the_checksum_is_found_with_the_password(name: str) -> None:
    other = lock(real_signer(2), PASSWORD, role=Role.ACCOUNT, cost=CHEAP)
    changes: dict[str, dict[str, Any]] = {
        "ciphertext": {"cipher": {"ciphertext": other.ciphertext.hex()}},
        "public_key": {"public_key": other.public_key.hex()},
        "label": {"label": "savings"},
        "role": {"role": "consensus_vote"},
        "algorithm": {"algorithm": "ML_DSA_87", "public_key": real_signer(1, AlgId.ML_DSA_87).public_key.hex()},
    }
    store = decode_keystore(mended(changes[name]))
    with pytest.raises(CorruptKeystore, match="password is right"):
        store.unlock(PASSWORD)


@pytest.mark.parametrize("name", ["salt", "n", "password_check"])
def test_a_change_to_what_the_password_is_checked_with_reads_as_a_wrong_password(name: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "salt": {"kdf": {"salt": bytes(32).hex()}},
        "n": {"kdf": {"n": 1 << 15}},
        "password_check": {"password_check": bytes(32).hex()},
    }
    with pytest.raises(WrongPassword):
        decode_keystore(mended(changes[name])).unlock(PASSWORD)


@pytest.mark.parametrize(
    "change",
    [
        {"kdf": {"n": 1 << 21}},
        {"kdf": {"n": 1 << 13}},
        {"kdf": {"n": 3 << 14}},
        {"kdf": {"n": 0}},
        {"kdf": {"n": -(1 << 14)}},
        {"kdf": {"n": 10**4_000}},
        {"kdf": {"n": 16_384.0}},
        {"kdf": {"n": True}},
        {"kdf": {"r": 33}},
        {"kdf": {"p": 5}},
        {"kdf": {"n": 1 << 20, "r": 32}},
        {"kdf": {"name": "md5"}},
        {"kdf": {"salt": "00"}},
        {"kdf": {"salt": "zz" * 32}},
        {"kdf": {"salt": 7}},
        {"cipher": {"name": "rot13"}},
        {"cipher": {"ciphertext": None}},
        {"password_check": ""},
        {"role": "king"},
        {"algorithm": "RSA"},
        {"algorithm": "MULTISIG"},
        {"algorithm": ["ML_DSA_65"]},
        {"role": "consensus_vote", "algorithm": "SLH_DSA_SHAKE_128S", "public_key": "00" * 32},
        {"public_key": "00"},
        {"public_key": "AB" * 1_952},
        {"label": "x" * (MAX_LABEL_CHARS + 1)},
        {"label": "\x1b[31mred"},
        {"label": 7},
        {"version": 2},
        {"version": "1"},
        {"format": "other"},
        {"surplus": 1},
    ],
    ids=str,
)
def test_a_file_that_says_something_impossible_is_refused_before_any_work(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptKeystore):
        decode_keystore(mended(change))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"{",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"\xff\xfe",
        b" " * (MAX_FILE_BYTES + 1),
    ],
    ids=lambda data: repr(data[:8]),
)
def test_files_of_another_kind_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptKeystore):
        decode_keystore(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptKeystore):
        decode_keystore(data)


def test_costs_out_of_bounds_are_refused() -> None:
    for bad in ((13, 8, 1), (21, 8, 1), (17, 0, 1), (17, 33, 1), (17, 8, 0), (17, 8, 5), (20, 16, 1), (20, 8, 2)):
        with pytest.raises(ValueError, match="scrypt"):
            ScryptCost(*bad)
    assert ScryptCost().memory_bytes == 128 << 20
    ScryptCost(20, 8, 1)


def test_what_cannot_be_stored_is_host_misuse() -> None:
    with pytest.raises(ValueError, match="empty password"):
        lock(KEY, "", role=Role.ACCOUNT, cost=CHEAP)
    with pytest.raises(ValueError, match="at most 4096"):
        lock(KEY, "x" * 5_000, role=Role.ACCOUNT, cost=CHEAP)
    with pytest.raises(ValueError, match="label"):
        lock(KEY, PASSWORD, role=Role.ACCOUNT, label="two\nlines", cost=CHEAP)


def test_a_written_file_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        write_keystore(tmp_path / "a.key.json", stored())
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.key.json").stat().st_mode) == 0o600
    assert read_keystore(tmp_path / "a.key.json") == stored()
    assert [path.name for path in tmp_path.iterdir()] == ["a.key.json"]


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "a.key.json"
    path.write_bytes(b"precious")
    with pytest.raises(KeystoreExists, match="left as it is"):
        write_keystore(path, stored())
    assert path.read_bytes() == b"precious"
    write_keystore(path, stored(), replace=True)
    assert read_keystore(path) == stored()
    assert len(list(tmp_path.iterdir())) == 1


def test_without_hard_links_an_existing_file_is_still_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    write_private_file(tmp_path / "new", b"one")
    assert (tmp_path / "new").read_bytes() == b"one"
    with pytest.raises(FileExistsError):
        write_private_file(tmp_path / "new", b"two")
    assert (tmp_path / "new").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


KILLED_BEFORE_THE_RENAME = """
import os, sys
from pathlib import Path
from trellis.crypto.keystore import write_private_file
os.link = Path.replace = lambda *_: os.kill(os.getpid(), 9)
write_private_file(Path(sys.argv[1]), b"new", replace=sys.argv[2] == "True")
"""


@pytest.mark.parametrize("replace", [False, True])
def test_a_kill_before_the_rename_leaves_the_old_file_and_a_private_temporary_one(
    tmp_path: Path, replace: bool
) -> None:
    path = tmp_path / "a.key.json"
    if replace:
        path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_RENAME, path, str(replace)], check=False)
    assert killed.returncode == -9
    assert (path.read_bytes() == b"old") if replace else not path.exists()
    (left,) = [p for p in tmp_path.iterdir() if p != path]
    assert left.read_bytes() == b"new"
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    write_private_file(path, b"newer", replace=replace)
    assert path.read_bytes() == b"newer"


def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        steps.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_private_file(tmp_path / "a", b"x", replace=True)
    assert steps == ["file", "rename", "directory"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private_file(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_reading_stops_at_the_cap(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(b" " * (4 * MAX_FILE_BYTES))
    with pytest.raises(CorruptKeystore, match=f"this has {MAX_FILE_BYTES + 1}"):
        read_keystore(tmp_path / "huge")


def test_a_missing_file_is_not_called_corrupt(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_keystore(tmp_path / "none")


def test_no_error_or_repr_holds_the_secret_or_the_password() -> None:
    shown = [repr(stored()), str(stored()), stored().encode().decode()]
    damaged = mended({"label": "savings"})
    for store, password in ((stored(), "wrong " + PASSWORD), (decode_keystore(damaged), PASSWORD)):
        try:
            store.unlock(password)
        except KeystoreError as fault:
            shown.append("".join(traceback.format_exception(fault)))
    assert len(shown) == 5
    for text in shown:
        assert PASSWORD not in text
        assert KEY.secret().hex() not in text


@pytest.mark.parametrize("name", ["ml-dsa-65", "ml-dsa-87", "slh-dsa-shake-128s"])
def test_a_file_written_by_an_earlier_version_opens_for_ever(name: str) -> None:
    store = read_keystore(VECTORS / "keystores" / f"{name}.key.json")
    key = store.unlock(PASSWORD)
    cases = json.loads((VECTORS / "phrases.json").read_text())["cases"]
    (case,) = [case for case in cases if AlgId[case["algorithm"]] is store.alg_id]
    assert key.secret().hex() == case["secret"]
    assert key.public_key.hex() == case["public_key"]
    assert scheme(store.alg_id).name.lower() == name


def test_the_default_cost_is_what_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    class Cheap:
        def __init__(self, salt: bytes, length: int, n: int, r: int, p: int) -> None:
            asked.append((n, r, p))

        def derive(self, _: bytes) -> bytes:
            return bytes(64)

    monkeypatch.setattr(keystore, "Scrypt", Cheap)
    store = lock(KEY, PASSWORD, role=Role.ACCOUNT)
    assert json.loads(store.encode())["kdf"] | {"salt": ""} == {
        "name": "scrypt",
        "n": 1 << 17,
        "r": 8,
        "p": 1,
        "salt": "",
    }
    decode_keystore(store.encode()).unlock(PASSWORD)
    assert asked == [(1 << 17, 8, 1)] * 2
