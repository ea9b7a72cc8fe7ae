"""`trellis keys`: make, import, export, list and certify keys. Every key is one encrypted file.

Secrets come from prompts and files, never from the command line, which other users of the machine can read; and they go
to terminals and private files, never to a pipe by accident.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.keyring import (
    ALGORITHMS,
    KEY_SUFFIX,
    Decorator,
    ask_secret,
    describe,
    directory_option,
    key_path,
    may_show_secrets,
    new_password,
    password_option,
    public_key_of,
    read_key,
    read_text,
    role_name,
    unlock,
    write_file,
    write_key,
)
from node.cli.output import OutputFormat, current_format, emit_record, emit_rows, output_option
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.crypto.cold import MAX_LIFETIME_S, HotKey, certify
from trellis.crypto.keystore import (
    Keystore,
    KeystoreError,
    ScryptCost,
    lock,
    read_keystore,
)
from trellis.crypto.phrase import PhraseError, phrases_to_secret, secret_to_phrases
from trellis.crypto.policy import PolicyEntry, Role
from trellis.crypto.schemes import SigningKey, proves_itself, scheme, verify_one
from trellis.peerid import fingerprint, peer_id_text
from trellis.types import HASH_BYTES, Hash

_ROLES: Final = {role.name.lower().replace("_", "-"): role for role in Role}
_DAY_S: Final = 24 * 3_600

role_option: Decorator = click.option(
    "--role", type=click.Choice(list(_ROLES)), default="account", show_default=True, help="What the key is for."
)
algorithm_option: Decorator = click.option(
    "--algorithm",
    type=click.Choice(list(ALGORITHMS)),
    help="Default: ml-dsa-65, and slh-dsa-shake-128s for cold certification.",
)
replace_option: Decorator = click.option("--replace", is_flag=True, help="Overwrite an existing file of that name.")


@click.group()
@output_option
def keys() -> None:
    """Make, import, export, list and certify keys, encrypted at rest.

    A key is a file, NAME.key.json, in --dir. Passwords are asked for on a terminal, and read from --password-file
    elsewhere.

    \b
    Examples:
      trellis keys new alice
      trellis keys new vote --role consensus-vote --password-file pw
      trellis keys list
    """


@keys.command()
@click.argument("name")
@role_option
@algorithm_option
@click.option("--label", default="", help="A note for people, kept in the file in the clear.")
@directory_option
@password_option
@replace_option
@click.option(
    "--show-phrase/--hide-phrase", default=None, help="Show the recovery phrase. Default: on a terminal, in table form."
)
@output_option
@click.pass_context
def new(
    ctx: click.Context,
    name: str,
    role: str,
    algorithm: str | None,
    label: str,
    directory: Path,
    password_file: Path | None,
    replace: bool,
    show_phrase: bool | None,
) -> None:
    """Make a key and store it, encrypted, as NAME.

    The recovery phrase is shown once: whoever has it has the key.

    \b
    Examples:
      trellis keys new alice
      trellis keys new cold --role cold-certification --label "safe, second floor"
    """
    path = key_path(directory, name)
    _refuse_existing(path, replace)
    alg = _algorithm(role, algorithm)
    password = new_password(password_file)
    key = scheme(alg).generate()
    store = _store(path, key, password, _ROLES[role], label, replace)
    record = describe(store, path)
    if show_phrase is None:
        show_phrase = may_show_secrets() and current_format(ctx) is OutputFormat.TABLE
    if show_phrase:
        record["recovery_phrases"] = _phrases(ctx, key)
    else:
        record["recovery_phrases"] = None
        click.echo(f"back the key up: copy {path}, or run: trellis keys export {name} --as phrase", err=True)
    _answer(ctx, record)


@keys.command(name="import")
@click.argument("name")
@click.option("--keystore", "keystore_file", type=click.Path(path_type=Path), help="An encrypted key file.")
@click.option("--phrase-file", type=click.Path(path_type=Path), help="A file with the recovery phrase (or phrases).")
@click.option("--phrase", "ask_phrase", is_flag=True, help="Ask for the recovery phrase.")
@click.option("--secret-file", type=click.Path(path_type=Path), help="A file with the secret in hexadecimal.")
@role_option
@algorithm_option
@click.option("--label", default="", help="A note for people, kept in the file in the clear.")
@directory_option
@password_option
@replace_option
@output_option
@click.pass_context
def import_(
    ctx: click.Context,
    name: str,
    keystore_file: Path | None,
    phrase_file: Path | None,
    ask_phrase: bool,
    secret_file: Path | None,
    role: str,
    algorithm: str | None,
    label: str,
    directory: Path,
    password_file: Path | None,
    replace: bool,
) -> None:
    """Store a key from a key file, a recovery phrase or a secret in hexadecimal, encrypted, as NAME.

    A key file keeps its password, role and label, and is opened once to see that it is whole.

    \b
    Examples:
      trellis keys import alice --phrase
      trellis keys import alice --keystore backup/alice.key.json
    """
    if sum((keystore_file is not None, phrase_file is not None, ask_phrase, secret_file is not None)) != 1:
        raise CommandFailed(
            Exit.USAGE,
            "say where the key comes from, once",
            "give one of --keystore FILE, --phrase, --phrase-file FILE, --secret-file FILE",
        )
    path = key_path(directory, name)
    _refuse_existing(path, replace)
    if keystore_file is not None:
        store = read_key(keystore_file)
        unlock(store, keystore_file, password_file)
        write_key(path, store, replace)
        _answer(ctx, describe(store, path))
        return
    secret = _read_secret(phrase_file, secret_file)
    key = _key_from(secret, _imported_algorithm(role, algorithm, len(secret)))
    password = new_password(password_file)
    _answer(ctx, describe(_store(path, key, password, _ROLES[role], label, replace), path))


@keys.command()
@click.argument("name")
@click.option(
    "--as",
    "form",
    type=click.Choice(["public", "keystore", "phrase", "secret"]),
    default="public",
    show_default=True,
    help="public: nothing secret; keystore: the encrypted file; phrase, secret: the key itself, in the clear.",
)
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), help="Write a private file instead of showing.")
@directory_option
@password_option
@replace_option
@output_option
@click.pass_context
def export(
    ctx: click.Context,
    name: str,
    form: str,
    to: Path | None,
    directory: Path,
    password_file: Path | None,
    replace: bool,
) -> None:
    """Show or write a key: its public part, its encrypted file, its recovery phrase or its secret.

    Secrets in the clear are shown on a terminal only; elsewhere they need --to FILE.

    \b
    Examples:
      trellis keys export vote --as public --to vote.pub.json
      trellis keys export alice --as phrase
    """
    path = key_path(directory, name)
    store = read_key(path)
    if form == "public":
        record = describe(store, path)
        if to is not None:
            write_file(to, json.dumps(record, indent=2).encode() + b"\n", replace)
        emit_record(ctx, record)
        return
    if form == "keystore":
        if to is None:
            raise CommandFailed(Exit.USAGE, "an encrypted key file needs a place", "add --to FILE")
        write_key(to, store, replace)
        _answer(ctx, describe(store, to))
        return
    if to is None and not may_show_secrets():
        raise CommandFailed(
            Exit.USAGE, "a secret is shown on a terminal only", "add --to FILE: it will be readable by its owner alone"
        )
    key = unlock(store, path, password_file)
    if to is None:
        emit_record(ctx, {"name": name, form: _phrases(ctx, key) if form == "phrase" else key.secret().hex()})
        return
    text = "\n".join(secret_to_phrases(key.secret())) if form == "phrase" else key.secret().hex()
    write_file(to, text.encode() + b"\n", replace)
    emit_record(ctx, {"name": name, "written": str(to), "form": form})


@keys.command(name="list")
@directory_option
@output_option
@click.pass_context
def list_(ctx: click.Context, directory: Path) -> None:
    """List the keys of a directory. Needs no password.

    \b
    Examples:
      trellis keys list
      trellis --output json keys list --dir /var/lib/trellis/keys
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(directory.expanduser().glob(f"*{KEY_SUFFIX}")):
        try:
            rows.append(describe(read_keystore(path), path) | {"problem": None})
        except (KeystoreError, OSError) as fault:
            rows.append({"name": path.name.removesuffix(KEY_SUFFIX), "file": str(path), "problem": str(fault)})
    columns = ["name", "role", "algorithm", "address", "peer_id", "label"]
    emit_rows(ctx, "keys", rows, [*columns, "problem"] if any(row["problem"] for row in rows) else columns)


@keys.command(name="certify")
@click.argument("cold")
@click.argument("hot")
@click.option("--genesis-hash", required=True, help="The network, in hexadecimal: trellis genesis hash prints it.")
@click.option(
    "--role",
    type=click.Choice(["network-identity", "consensus-vote"]),
    default="network-identity",
    show_default=True,
    help="What the hot key may do.",
)
@click.option(
    "--days", type=click.IntRange(1, MAX_LIFETIME_S // _DAY_S), default=7, show_default=True, help="How long."
)
@click.option("--serial", type=click.IntRange(0, 2**64 - 1), help="Must grow with each certificate. Default: the time.")
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The certificate's file.")
@directory_option
@password_option
@replace_option
@output_option
@click.pass_context
def certify_(
    ctx: click.Context,
    cold: str,
    hot: str,
    genesis_hash: str,
    role: str,
    days: int,
    serial: int | None,
    to: Path,
    directory: Path,
    password_file: Path | None,
    replace: bool,
) -> None:
    """Have the cold key COLD vouch for the hot key HOT for some days.

    HOT is the name of a key here, a key file, or what trellis keys export NAME --as public --to FILE made. The cold
    key's machine needs no network and no hot secret. Takes a few seconds.

    \b
    Example:
      trellis keys certify cold net.pub.json --genesis-hash 7c1e… --days 30 --to net.cert
    """
    cold_path = key_path(directory, cold)
    store = read_key(cold_path)
    if store.role is not Role.COLD_CERTIFICATION:
        raise CommandFailed(
            Exit.LOCAL,
            f"{cold} is a key for {role_name(store.role)}, not for cold certification",
            "make one with: trellis keys new NAME --role cold-certification",
        )
    if to.exists() and not replace:
        raise CommandFailed(Exit.LOCAL, f"{to} exists already; it was left as it is", "add --replace to overwrite it")
    network = _parse_genesis_hash(genesis_hash)
    hot_alg, hot_public_key = public_key_of(directory, hot)
    key = unlock(store, cold_path, password_file)
    now_s = int(time.time())
    statement = HotKey(
        genesis_hash=network,
        role=_ROLES[role],
        alg_id=hot_alg,
        public_key=hot_public_key,
        not_before_s=now_s,
        not_after_s=now_s + days * _DAY_S,
        serial=now_s if serial is None else serial,
    )
    certificate = certify(statement, key.alg_id, key.public_key, key.sign)
    if not verify_one(certificate.check()):
        raise CommandFailed(Exit.LOCAL, f"{cold} makes signatures that do not verify", "restore it from its backup")
    write_file(to, certificate.encode(), replace)
    emit_record(
        ctx,
        {
            "certificate": str(to),
            "peer_id": peer_id_text(certificate.cold_peer_id),
            "hot_fingerprint": fingerprint(hot_alg, hot_public_key).hex(),
            "role": role,
            "not_before": _moment(statement.not_before_s),
            "not_after": _moment(statement.not_after_s),
            "serial": statement.serial,
        },
    )


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _answer(ctx: click.Context, record: dict[str, Any]) -> None:
    """The table leaves out the public key, a page of digits: programs get it, and `export` writes it."""
    if current_format(ctx) is OutputFormat.TABLE:
        record = {name: value for name, value in record.items() if name != "public_key"}
    emit_record(ctx, record)


def _algorithm(role: str, algorithm: str | None) -> AlgId:
    cold = _ROLES[role] is Role.COLD_CERTIFICATION
    default = AlgId.SLH_DSA_SHAKE_128S if cold else AlgId.ML_DSA_65
    alg = default if algorithm is None else ALGORITHMS[algorithm]
    try:
        PolicyEntry(_ROLES[role], alg)
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault), "choose another --algorithm or --role") from None
    return alg


def _imported_algorithm(role: str, algorithm: str | None, secret_bytes: int) -> AlgId:
    """A secret of 64 bytes can only be SLH-DSA's; a seed of 32 bytes may be of either ML-DSA."""
    if algorithm is None and secret_bytes == SIZES[AlgId.SLH_DSA_SHAKE_128S].secret_bytes:
        algorithm = scheme(AlgId.SLH_DSA_SHAKE_128S).name.lower()
    return _algorithm(role, algorithm)


def _key_from(secret: bytes, alg: AlgId) -> SigningKey:
    try:
        key = scheme(alg).from_secret(secret)
    except ValueError as fault:
        raise CommandFailed(Exit.LOCAL, str(fault), "choose the --algorithm that the key was made with") from None
    if not proves_itself(key):
        raise CommandFailed(
            Exit.LOCAL,
            "the key does not verify its own signature: its parts are swapped or belong to two keys",
            "an SLH-DSA key has two phrases; give them in the order in which they were shown",
        )
    return key


def _phrases(ctx: click.Context, key: SigningKey) -> str | list[str]:
    phrases = list(secret_to_phrases(key.secret()))
    return phrases if current_format(ctx) is OutputFormat.JSON else "\n".join(phrases)


def _read_secret(phrase_file: Path | None, secret_file: Path | None) -> bytes:
    if secret_file is not None:
        try:
            return bytes.fromhex(read_text(secret_file, "secret file").strip())
        except ValueError:
            raise CommandFailed(Exit.LOCAL, f"the secret file {secret_file} is not hexadecimal") from None
    text = read_text(phrase_file, "phrase file") if phrase_file else ask_secret("Recovery phrase")
    try:
        return phrases_to_secret(text)
    except PhraseError as fault:
        raise CommandFailed(Exit.LOCAL, str(fault), "compare it with your copy, word by word") from None


def _store(path: Path, key: SigningKey, password: str, role: Role, label: str, replace: bool) -> Keystore:
    try:
        store = lock(key, password, role=role, label=label, cost=ScryptCost())
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault)) from None
    write_key(path, store, replace)
    return store


def _refuse_existing(path: Path, replace: bool) -> None:
    """Before any password is asked for; the write itself refuses once more."""
    if path.exists() and not replace:
        raise CommandFailed(
            Exit.LOCAL,
            f"{path} exists already; it was left as it is",
            "choose another name; --replace would destroy that key for ever",
        )


def _parse_genesis_hash(text: str) -> Hash:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != HASH_BYTES:
        raise CommandFailed(Exit.USAGE, f"a genesis hash has {2 * HASH_BYTES} hexadecimal digits")
    return Hash(raw)
