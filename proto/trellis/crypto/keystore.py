"""Keys at rest: one JSON file a key, encrypted under a password, and the careful writing of such files.

scrypt turns the password into two keys: one encrypts the secret with AES-256-GCM (everything else in the file is its
associated data), the other makes a check value. So the three things that can be wrong are told apart:

- a checksum over the whole content that is off, or bytes that Trellis would not have written: `CorruptKeystore`, found
  without the password and before any work;
- a check value that does not match: `WrongPassword`;
- a secret that does not decrypt after that, or does not belong to the public key: `CorruptKeystore` again; somebody
  changed the file and knew how to mend the checksum.

Every encryption draws a new salt, hence a new key, so the cipher's nonce may be constant (zero). The check value helps
nobody guess passwords who could not try the ciphertext instead.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from trellis.crypto.aead import Aead, AuthenticationError, Suite
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.crypto.kdf import hmac_sha3_256
from trellis.crypto.policy import PolicyEntry, Role
from trellis.crypto.schemes import SigningKey, scheme
from trellis.encoding import Writer
from trellis.hashing import Tag, hash_tagged

FORMAT: Final = "trellis-keystore"
VERSION: Final = 1
SALT_BYTES: Final = 32
CHECK_BYTES: Final = 32
MAX_LABEL_CHARS: Final = 64
MAX_PASSWORD_BYTES: Final = 4_096
MAX_FILE_BYTES: Final = 64 << 10
"""A hostile file cannot make us read or parse without end; the largest real one has 6 KB."""

MIN_SCRYPT_LOG2: Final = 14
MAX_SCRYPT_LOG2: Final = 20
MAX_SCRYPT_MEMORY_BYTES: Final = 1 << 30
"""A hostile file cannot make us allocate or compute without end: scrypt takes 128·n·r bytes and 4 s at this bound."""

_FILE_MODE: Final = 0o600


class KeystoreError(Exception):
    """A keystore cannot be used; the message says why and never holds a secret."""


class WrongPassword(KeystoreError):
    """The file is intact; the password is not the one it was encrypted under."""


class CorruptKeystore(KeystoreError):
    """The file is not as Trellis wrote it. Restore it from a backup, or the key from its recovery phrase."""


class KeystoreExists(KeystoreError):
    """There is a file of that name already, and nobody said that it may be replaced."""


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """n = 2^n_log2. Each step doubles what a guess costs an attacker, and what it costs us."""

    n_log2: int = 17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        if not MIN_SCRYPT_LOG2 <= self.n_log2 <= MAX_SCRYPT_LOG2:
            raise ValueError(f"scrypt n is 2^{self.n_log2}: it must be 2^{MIN_SCRYPT_LOG2} to 2^{MAX_SCRYPT_LOG2}")
        if not (1 <= self.r <= 32 and 1 <= self.p <= 4):
            raise ValueError(f"scrypt r is {self.r} and p {self.p}: at most 32 and 4")
        if self.memory_bytes * self.p > MAX_SCRYPT_MEMORY_BYTES:
            raise ValueError(f"scrypt would take {self.memory_bytes} bytes, {self.p} times: too much")

    @property
    def memory_bytes(self) -> int:
        return (128 * self.r) << self.n_log2


DEFAULT_COST: Final = ScryptCost()
"""128 MiB and about half a second (measured on a slow core)."""


@dataclass(frozen=True, slots=True)
class Keystore:
    """An encrypted key, and what may be known about it without the password."""

    role: Role
    alg_id: AlgId
    public_key: bytes
    label: str
    cost: ScryptCost
    salt: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)
    password_check: bytes = field(repr=False)

    def __post_init__(self) -> None:
        PolicyEntry(self.role, self.alg_id)  # refuses algorithms that can never serve the role
        if self.alg_id not in SIZES or len(self.public_key) != SIZES[self.alg_id].public_key_bytes:
            raise ValueError(f"{len(self.public_key)} bytes are no public key of {self.alg_id.name}")
        if len(self.salt) != SALT_BYTES or len(self.password_check) != CHECK_BYTES:
            raise ValueError(f"a salt has {SALT_BYTES} bytes and a password check {CHECK_BYTES}")
        # A label is printed on terminals: a hostile file must not carry escape sequences there.
        if len(self.label) > MAX_LABEL_CHARS or not self.label.isprintable():
            raise ValueError(f"a label has at most {MAX_LABEL_CHARS} printable characters")

    def encode(self) -> bytes:
        """The file, byte for byte: `decode_keystore` accepts no other form of the same content."""
        document = self._content()
        document["checksum"] = _checksum(document)
        return json.dumps(document, indent=2).encode() + b"\n"

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "role": self.role.name.lower(),
            "label": self.label,
            "algorithm": self.alg_id.name,
            "public_key": self.public_key.hex(),
            "kdf": {
                "name": "scrypt",
                "n": 1 << self.cost.n_log2,
                "r": self.cost.r,
                "p": self.cost.p,
                "salt": self.salt.hex(),
            },
            "password_check": self.password_check.hex(),
            "cipher": {"name": "aes-256-gcm", "ciphertext": self.ciphertext.hex()},
        }

    def unlock(self, password: str) -> SigningKey:
        """The key. Takes as long as the file's scrypt cost says; `WrongPassword` or `CorruptKeystore`."""
        encryption_key, check = _derive(password, self.salt, self.cost)
        if not hmac.compare_digest(check, self.password_check):
            raise WrongPassword("wrong password: the keystore is intact, but this is not the password it was made with")
        try:
            secret = Aead(Suite.AES_256_GCM, encryption_key).open(0, self.ciphertext, _associated(self))
        except AuthenticationError:
            raise CorruptKeystore("the password is right, but the encrypted secret was changed") from None
        try:
            key = scheme(self.alg_id).from_secret(secret)
        except ValueError:
            raise CorruptKeystore("the encrypted secret has a wrong size for its algorithm") from None
        if key.public_key != self.public_key:
            raise CorruptKeystore("the encrypted secret does not belong to the public key in the file")
        return key


def lock(key: SigningKey, password: str, *, role: Role, label: str = "", cost: ScryptCost = DEFAULT_COST) -> Keystore:
    """Encrypts a key under a password."""
    if not password:
        raise ValueError("an empty password protects nothing")
    salt = secrets.token_bytes(SALT_BYTES)
    encryption_key, check = _derive(password, salt, cost)
    empty = Keystore(role, key.alg_id, key.public_key, label, cost, salt, b"", check)
    ciphertext = Aead(Suite.AES_256_GCM, encryption_key).seal(0, key.secret(), _associated(empty))
    return Keystore(role, key.alg_id, key.public_key, label, cost, salt, ciphertext, check)


def _derive(password: str, salt: bytes, cost: ScryptCost) -> tuple[bytes, bytes]:
    """Encryption key and password check."""
    # One password typed on two keyboards may arrive in two Unicode forms.
    raw = unicodedata.normalize("NFKC", password).encode()
    if len(raw) > MAX_PASSWORD_BYTES:
        raise ValueError(f"a password has at most {MAX_PASSWORD_BYTES} bytes")
    derived = Scrypt(salt=salt, length=64, n=1 << cost.n_log2, r=cost.r, p=cost.p).derive(raw)
    return derived[:32], hmac_sha3_256(derived[32:], Tag.KEYSTORE.value + b"/password-check")


def _associated(store: Keystore) -> bytes:
    writer = Writer().raw(Tag.KEYSTORE.value).u8(store.role).u8(store.alg_id).lp(store.public_key).text(store.label)
    return writer.u8(store.cost.n_log2).u8(store.cost.r).u8(store.cost.p).lp(store.salt).done()


def _checksum(document: Mapping[str, Any]) -> str:
    return hash_tagged(Tag.KEYSTORE, json.dumps(document, sort_keys=True).encode()).hex()


def decode_keystore(data: bytes) -> Keystore:
    """Needs no password; `CorruptKeystore` for anything that `Keystore.encode` does not write."""
    # A copy through mail or an editor may have changed every line's end, which harms nothing.
    data = data.replace(b"\r\n", b"\n")
    if len(data) > MAX_FILE_BYTES:
        raise CorruptKeystore(f"a keystore has at most {MAX_FILE_BYTES} bytes, this has {len(data)}")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise CorruptKeystore("this is no JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CorruptKeystore(f'this is no keystore: it lacks "format": "{FORMAT}"')
    if document.get("version") != VERSION:
        raise CorruptKeystore(f"keystore version {document.get('version')!r}: this software knows {VERSION}")
    claimed = document.pop("checksum", None)
    if claimed != _checksum(document):
        raise CorruptKeystore("the file was damaged or edited: its checksum does not match its content")
    try:
        store = _from_document(document)
    except (ValueError, KeyError, TypeError) as fault:
        raise CorruptKeystore(f"the file says something impossible: {fault}") from None
    if store.encode() != data:
        raise CorruptKeystore("the file was reformatted or edited: it is not as Trellis wrote it")
    return store


def _from_document(document: Mapping[str, Any]) -> Keystore:
    """ValueError, KeyError or TypeError if it does not fit; what it ignores, the comparison of bytes finds."""
    kdf = document["kdf"]
    if kdf["name"] != "scrypt" or document["cipher"]["name"] != "aes-256-gcm":
        raise ValueError("an unknown kdf or cipher")
    n, r, p = kdf["n"], kdf["r"], kdf["p"]
    if not (type(n) is type(r) is type(p) is int) or n < 1 or n & (n - 1):
        raise ValueError("scrypt's n, r and p are integers, n a power of two")
    return Keystore(
        role=Role[str(document["role"]).upper()],
        alg_id=AlgId[document["algorithm"]],
        public_key=bytes.fromhex(document["public_key"]),
        label=cast("str", document["label"]),
        cost=ScryptCost(n.bit_length() - 1, r, p),
        salt=bytes.fromhex(kdf["salt"]),
        ciphertext=bytes.fromhex(document["cipher"]["ciphertext"]),
        password_check=bytes.fromhex(document["password_check"]),
    )


def read_keystore(path: Path) -> Keystore:
    """OSError if the file cannot be read, `CorruptKeystore` if it is none."""
    with path.open("rb") as file:
        return decode_keystore(file.read(MAX_FILE_BYTES + 1))


def write_keystore(path: Path, store: Keystore, *, replace: bool = False) -> None:
    """`KeystoreExists` if there is a file and `replace` was not said."""
    try:
        write_private_file(path, store.encode(), replace=replace)
    except FileExistsError:
        raise KeystoreExists(f"{path} exists already; it was left as it is") from None


def write_private_file(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Writes a file that only its owner can read, whole or not at all: a crash at any moment leaves the old file or
    the new one. `FileExistsError` if there is one and `replace` was not said."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _rename_to_new(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    _sync_directory(path.parent)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Never replaces a file, not even one that appeared this moment: a link fails where a rename would overwrite."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        # No hard links on this file system (a memory stick): take the name first, then replace what we made ourselves.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE))
        temporary.replace(path)


def _sync_directory(directory: Path) -> None:
    """Without it the new name may be lost in a power cut, though the content is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
