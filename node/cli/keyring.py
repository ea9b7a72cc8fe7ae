"""The key files of this machine, as commands see them: where they are, their passwords, and errors that say what to do.

Secrets come from prompts and files, never from the command line, which other users of the machine can read.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.output import is_interactive
from trellis.address import address_of, format_address
from trellis.crypto.algorithms import SIZES, AlgId, check_key_size
from trellis.crypto.keystore import (
    FORMAT,
    CorruptKeystore,
    Keystore,
    KeystoreError,
    KeystoreExists,
    read_keystore,
    write_keystore,
    write_private_file,
)
from trellis.crypto.policy import Role
from trellis.crypto.schemes import SigningKey, scheme
from trellis.peerid import fingerprint, peer_id, peer_id_text

DEFAULT_DIRECTORY: Final = "~/.trellis/keys"
KEY_SUFFIX: Final = ".key.json"
KEY_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_MAX_SECRET_FILE_BYTES: Final = 16 << 10

ALGORITHMS: Final = {scheme(alg).name.lower(): alg for alg in SIZES}
"""As people write them."""

Decorator = Callable[[Callable[..., None]], Callable[..., None]]

directory_option: Decorator = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DIRECTORY,
    envvar="TRELLIS_KEYS_DIR",
    show_envvar=True,
    show_default=True,
    help="Where key files live.",
)
password_option: Decorator = click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="TRELLIS_KEY_PASSWORD_FILE",
    show_envvar=True,
    help="Read the password from this file instead of asking for it.",
)


def may_show_secrets() -> bool:
    """To somebody at a terminal, and to nothing else: not even to a pipe that a terminal's user built."""
    return is_interactive() and sys.stdout.isatty()


def key_path(directory: Path, name: str) -> Path:
    if not KEY_NAME.fullmatch(name):
        raise CommandFailed(
            Exit.USAGE, f"{name!r} is no name for a key", "use up to 64 letters, digits, dots, dashes and underscores"
        )
    return directory.expanduser() / f"{name}{KEY_SUFFIX}"


def role_name(role: Role) -> str:
    return role.name.lower().replace("_", "-")


def describe(store: Keystore, path: Path) -> dict[str, Any]:
    """What may be shown of a key. An account is known by its address, any other key by its peer id."""
    return {
        "name": path.name.removesuffix(KEY_SUFFIX),
        "role": role_name(store.role),
        "algorithm": scheme(store.alg_id).name.lower(),
        "address": format_address(address_of(store.alg_id, store.public_key)),
        "peer_id": peer_id_text(peer_id(store.alg_id, store.public_key)),
        "fingerprint": fingerprint(store.alg_id, store.public_key).hex(),
        "label": store.label,
        "public_key": store.public_key.hex(),
        "file": str(path),
    }


def read_key(path: Path) -> Keystore:
    try:
        return read_keystore(path)
    except FileNotFoundError:
        raise CommandFailed(Exit.NOT_FOUND, f"there is no key file {path}", "see: trellis keys list") from None
    except CorruptKeystore as fault:
        raise CommandFailed(
            Exit.LOCAL,
            f"{path}: {fault}",
            "restore the file from a backup, or the key from its recovery phrase: trellis keys import",
        ) from None
    except OSError as fault:
        raise CommandFailed(Exit.LOCAL, f"cannot read {path}: {fault.strerror}") from None


def unlock(store: Keystore, path: Path, password_file: Path | None) -> SigningKey:
    password = password_from(password_file) if password_file else ask_secret(f"Password of {path.name}")
    return unlock_with(store, path, password)


def unlock_with(store: Keystore, path: Path, password: str) -> SigningKey:
    try:
        return store.unlock(password)
    except KeystoreError as fault:
        raise CommandFailed(Exit.LOCAL, f"{path}: {fault}", "give the password that this key was made with") from None
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault), "give the password that this key was made with") from None


def require_password_source(password_file: Path | None) -> None:
    """Before any work is done: without a terminal only a file can give the password."""
    if password_file is None and not is_interactive():
        raise CommandFailed(
            Exit.USAGE,
            "a password is needed, and there is no terminal to ask for it",
            "give --password-file FILE, or set TRELLIS_KEY_PASSWORD_FILE",
        )


def ask_secret(prompt: str, *, confirm: bool = False) -> str:
    require_password_source(None)
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


def password_from(path: Path) -> str:
    text = read_text(path, "password file")
    password = text.split("\n", 1)[0].rstrip("\r")
    if not password:
        raise CommandFailed(Exit.USAGE, f"the first line of the password file {path} is empty")
    return password


def new_password(password_file: Path | None) -> str:
    return password_from(password_file) if password_file else ask_secret("New password", confirm=True)


def read_text(path: Path, what: str) -> str:
    raw = read_bytes(path, what, _MAX_SECRET_FILE_BYTES)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise CommandFailed(Exit.LOCAL, f"the {what} {path} is no text", "name another file") from None


def read_bytes(path: Path, what: str, most: int) -> bytes:
    """A file that somebody named: no more of it than it can rightly hold."""
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"cannot read the {what} {path}: {fault.strerror}", "check its name and your permissions"
        ) from None
    if len(raw) > most:
        raise CommandFailed(Exit.LOCAL, f"the {what} {path} is too large", "name another file")
    return raw


def write_key(path: Path, store: Keystore, replace: bool) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_keystore(path, store, replace=replace)
    except KeystoreExists as fault:
        raise CommandFailed(Exit.LOCAL, str(fault), "choose another name, or add --replace") from None
    except OSError as fault:
        raise CommandFailed(Exit.LOCAL, f"cannot write {path}: {fault.strerror}") from None


def write_file(path: Path, data: bytes, replace: bool) -> None:
    try:
        write_private_file(path, data, replace=replace)
    except FileExistsError:
        raise CommandFailed(
            Exit.LOCAL, f"{path} exists already; it was left as it is", "choose another file, or add --replace"
        ) from None
    except OSError as fault:
        raise CommandFailed(Exit.LOCAL, f"cannot write {path}: {fault.strerror}") from None


def public_key_of(directory: Path, named: str) -> tuple[AlgId, bytes]:
    """Of a key by its name here, of a key file, or from a file with a public export: all without a password."""
    if KEY_NAME.fullmatch(named) and key_path(directory, named).exists():
        store = read_key(key_path(directory, named))
        return store.alg_id, store.public_key
    hint = "make one with: trellis keys export NAME --as public --to FILE"
    file = Path(named)
    if not file.exists():
        raise CommandFailed(Exit.NOT_FOUND, f"{named} is neither a key here nor a file", hint)
    try:
        document = json.loads(read_text(file, "public key file"))
        if document.get("format") == FORMAT:
            store = read_key(file)
            return store.alg_id, store.public_key
        algorithm, public_key = ALGORITHMS[document["algorithm"]], bytes.fromhex(document["public_key"])
        check_key_size(algorithm, public_key, "public key")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CommandFailed(Exit.LOCAL, f"{named} holds no exported public key", hint) from None
    return algorithm, public_key
