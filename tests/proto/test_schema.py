"""The schema is complete, documented, well named, and what is committed is what it compiles to."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)
from grpc import StatusCode

PROTO_ROOT: Final = Path(__file__).resolve().parents[2] / "proto"
SCHEMA: Final = PROTO_ROOT / "trellis" / "v1"

SERVICES: Final = {
    "TransactionService": (
        "SubmitTransaction SubmitTransactions SubmitStream SimulateTransaction EstimateFee GetTransaction "
        "WaitForFinality GetReceipt"
    ),
    "LedgerService": (
        "GetServiceInfo GetBlock GetHeader ListBlocks GetAccount BatchGetAccounts ListAccountTransactions GetMempool "
        "GetSupply GetParameters GetStatement ListStatements"
    ),
    "FinalityService": "GetFinality GetCertificate GetValidatorTransitions GetStateProof",
    "ConsensusService": (
        "GetConsensusState ListValidators GetRewards GetReputation GetVerificationAccuracy ListEvidence "
        "GetAlgorithmPolicy"
    ),
    "SubscriptionService": "SubscribeBlocks SubscribeTransactions SubscribeEvidence",
    "NodeService": "GetStatus ListPeers GetSyncStatus GetVersion",
    "AdminService": "AddPeer RemovePeer BanPeer UnbanPeer ListBans SetLogLevel CreateSnapshot Prune Drain",
}

REASONS: Final = {
    "INVALID_ARGUMENT": "MALFORMED_TX BAD_SIGNATURE WRONG_CHAIN INVALID_FIELD",
    "FAILED_PRECONDITION": (
        "TX_EXPIRED NONCE_TOO_LOW NONCE_GAP INSUFFICIENT_FUNDS ALGORITHM_NOT_ALLOWED FEE_TOO_LOW NOT_FINAL"
    ),
    "RESOURCE_EXHAUSTED": "MEMPOOL_FULL RATE_LIMITED",
    "OUT_OF_RANGE": "HEIGHT_PRUNED HEIGHT_FUTURE",
    "UNAVAILABLE": "SYNCING NO_QUORUM DRAINING",
    "DEADLINE_EXCEEDED": "WAIT_TIMEOUT",
    "DATA_LOSS": "SUBSCRIPTION_GAP",
    "NOT_FOUND": "TX_UNKNOWN NOT_FOUND",
    "PERMISSION_DENIED": "ROLE_REQUIRED",
}

BYTES_FIELDS: Final = frozenset(
    {
        "body",
        "certificate",
        "consensus_public_key",
        "evidence",
        "header",
        "key",
        "next_validators",
        "proof",
        "public_key",
        "raw",
        "receipt",
        "seal",
        "statement",
        "value",
    }
)
"""What the services may show as raw bytes; everything else is a string that people can read and paste."""

MACHINE_FILES: Final = frozenset({"trellis/v1/transaction.proto", "trellis/v1/p2p.proto"})
"""What machines sign or exchange among themselves: raw bytes throughout."""


def committed() -> FileDescriptorSet:
    return FileDescriptorSet.FromString((SCHEMA / "descriptor.binpb").read_bytes())


@pytest.fixture(scope="module")
def schema() -> FileDescriptorSet:
    return committed()


def messages(file: FileDescriptorProto) -> Iterator[DescriptorProto]:
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        if not message.options.map_entry:
            yield message
            pending.extend(message.nested_type)


def message_named(schema: FileDescriptorSet, name: str) -> DescriptorProto:
    return next(message for file in schema.file for message in messages(file) if message.name == name)


def enum_named(schema: FileDescriptorSet, name: str) -> EnumDescriptorProto:
    return next(enum for file in schema.file for enum in file.enum_type if enum.name == name)


def services(schema: FileDescriptorSet) -> Iterator[ServiceDescriptorProto]:
    for file in schema.file:
        yield from file.service


def methods(schema: FileDescriptorSet) -> Iterator[tuple[str, MethodDescriptorProto]]:
    for service in services(schema):
        for method in service.method:
            yield service.name, method


def _places_in_message(path: tuple[int, ...], message: DescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    if message.options.map_entry:
        return
    yield message.name, path
    for number, field in enumerate(message.field):
        yield f"{message.name}.{field.name}", (*path, 2, number)
    for number, oneof in enumerate(message.oneof_decl):
        yield f"{message.name}.{oneof.name}", (*path, 8, number)
    for number, nested in enumerate(message.nested_type):
        yield from _places_in_message((*path, 3, number), nested)
    for number, enum in enumerate(message.enum_type):
        yield from _places_in_enum((*path, 4, number), enum)


def _places_in_enum(path: tuple[int, ...], enum: EnumDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield enum.name, path
    for number, value in enumerate(enum.value):
        yield value.name, (*path, 2, number)


def places(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every element that a reader of the API meets, with its path in the file's source info."""
    for number, message in enumerate(file.message_type):
        yield from _places_in_message((4, number), message)
    for number, enum in enumerate(file.enum_type):
        yield from _places_in_enum((5, number), enum)
    for number, service in enumerate(file.service):
        yield service.name, (6, number)
        for index, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (6, number, 2, index)


def comments(file: FileDescriptorProto) -> dict[str, str]:
    leading = {tuple(place.path): place.leading_comments.strip() for place in file.source_code_info.location}
    return {name: leading.get(path, "") for name, path in places(file)}


def all_comments(schema: FileDescriptorSet) -> dict[str, str]:
    return {name: comment for file in schema.file for name, comment in comments(file).items()}


SNAKE: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
PASCAL: Final = re.compile(r"[A-Z][A-Za-z0-9]*")


def upper_snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def naming_faults(schema: FileDescriptorSet) -> list[str]:
    """The main rules of buf's standard lint, so that a checkout without npm still has them."""
    faults: list[str] = []
    used: dict[str, str] = {}
    for file in schema.file:
        if file.package != "trellis.v1" or not re.fullmatch(r"trellis/v1/[a-z0-9_]+\.proto", file.name):
            faults.append(f"{file.name}: package {file.package} does not match its folder")
        for message in messages(file):
            faults.extend(_message_faults(message))
        for enum in (*file.enum_type, *(enum for message in messages(file) for enum in message.enum_type)):
            faults.extend(_enum_faults(enum))
        for service in file.service:
            if not service.name.endswith("Service") or not file.name.endswith("_service.proto"):
                faults.append(f"{service.name}: a service ends in Service and lives in a file that ends in _service")
            for method in service.method:
                faults.extend(_method_faults(service.name, method, used))
    return faults


def _message_faults(message: DescriptorProto) -> Iterator[str]:
    if not PASCAL.fullmatch(message.name):
        yield f"{message.name}: a message is PascalCase"
    for name in (*(field.name for field in message.field), *(oneof.name for oneof in message.oneof_decl)):
        if not SNAKE.fullmatch(name):
            yield f"{message.name}.{name}: a field is lower_snake_case"


def _enum_faults(enum: EnumDescriptorProto) -> Iterator[str]:
    prefix = upper_snake(enum.name)
    first = enum.value[0]
    if first.number != 0 or first.name != f"{prefix}_UNSPECIFIED":
        yield f"{enum.name}: the zero value is {prefix}_UNSPECIFIED"
    for value in enum.value:
        if not value.name.startswith(f"{prefix}_") or value.name != value.name.upper():
            yield f"{value.name}: a value of {enum.name} starts with {prefix}_"


def _method_faults(service: str, method: MethodDescriptorProto, used: dict[str, str]) -> Iterator[str]:
    if not PASCAL.fullmatch(method.name):
        yield f"{service}.{method.name}: a method is PascalCase"
    for type_name, suffix in ((method.input_type, "Request"), (method.output_type, "Response")):
        if type_name != f".trellis.v1.{method.name}{suffix}":
            yield f"{service}.{method.name}: its {suffix.lower()} is {method.name}{suffix}, not {type_name}"
        if type_name in used:
            yield f"{service}.{method.name}: {type_name} belongs to {used[type_name]} already"
        used[type_name] = method.name


def run_python(*arguments: str, cwd: Path = PROTO_ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_exactly_the_methods_that_the_design_names(schema: FileDescriptorSet, service: str) -> None:
    found = next(candidate for candidate in services(schema) if candidate.name == service)
    assert [method.name for method in found.method] == SERVICES[service].split()


def test_there_are_no_other_services(schema: FileDescriptorSet) -> None:
    assert {service.name for service in services(schema)} == set(SERVICES)


def test_only_submissions_and_subscriptions_stream(schema: FileDescriptorSet) -> None:
    assert {method.name for _, method in methods(schema) if method.client_streaming} == {"SubmitStream"}
    assert {method.name for service, method in methods(schema) if method.server_streaming} == set(
        SERVICES["SubscriptionService"].split()
    )


def test_every_element_of_the_schema_has_a_comment(schema: FileDescriptorSet) -> None:
    found = all_comments(schema)
    assert len(found) > 500
    assert [name for name, comment in found.items() if not re.search(r"\w", comment)] == []


def test_an_element_without_a_comment_is_noticed(schema: FileDescriptorSet) -> None:
    file = FileDescriptorProto()
    file.CopyFrom(next(file for file in schema.file if file.name.endswith("/common.proto")))
    for place in file.source_code_info.location:
        if tuple(place.path) == (4, 0, 2, 1):
            place.ClearField("leading_comments")
    assert [name for name, comment in comments(file).items() if not comment] == ["BlockRef.block_hash"]


def test_every_method_lists_the_reasons_it_can_fail_with(schema: FileDescriptorSet) -> None:
    documented = all_comments(schema)
    known = {value.name.removeprefix("REASON_") for value in enum_named(schema, "Reason").value}
    for service, method in methods(schema):
        _, _, errors = documented[f"{service}.{method.name}"].partition("Errors: ")
        named = set(re.findall(r"\b[A-Z]{2,}(?:_[A-Z]+)*\b", errors))
        assert named, f"{service}.{method.name} lists no reasons"
        assert named <= known, f"{service}.{method.name} lists {named - known}, which are no reasons"
        if service == "AdminService":
            assert "ROLE_REQUIRED" in named
        else:
            assert "RATE_LIMITED" in named


def test_the_reasons_are_the_closed_set_with_one_code_each(schema: FileDescriptorSet) -> None:
    documented = all_comments(schema)
    found: dict[str, list[str]] = {}
    for value in enum_named(schema, "Reason").value[1:]:
        code, _, _ = documented[value.name].partition(":")
        assert code in StatusCode.__members__, f"{value.name}: the comment starts with the gRPC code"
        found.setdefault(code, []).append(value.name.removeprefix("REASON_"))
    assert found == {code: names.split() for code, names in REASONS.items()}


def test_names_follow_the_standard_lint(schema: FileDescriptorSet) -> None:
    assert naming_faults(schema) == []


def _break_package(schema: FileDescriptorSet) -> None:
    schema.file[0].package = "trellis.v2"


def _break_message(schema: FileDescriptorSet) -> None:
    schema.file[0].message_type[0].name = "lower"


def _break_field(schema: FileDescriptorSet) -> None:
    message_named(schema, "BlockRef").field[0].name = "blockHeight"


def _break_oneof(schema: FileDescriptorSet) -> None:
    message_named(schema, "GetFinalityRequest").oneof_decl[0].name = "Subject"


def _break_zero(schema: FileDescriptorSet) -> None:
    enum_named(schema, "Reason").value[0].name = "REASON_NONE"


def _break_prefix(schema: FileDescriptorSet) -> None:
    enum_named(schema, "Reason").value[1].name = "MALFORMED_TX"


def _break_service(schema: FileDescriptorSet) -> None:
    next(services(schema)).name = "Admin"


def _break_request(schema: FileDescriptorSet) -> None:
    next(services(schema)).method[0].input_type = ".trellis.v1.Ban"


def _break_sharing(schema: FileDescriptorSet) -> None:
    first, second, *_ = next(services(schema)).method
    second.CopyFrom(first)


@pytest.mark.parametrize(
    "damage",
    [
        _break_package,
        _break_message,
        _break_field,
        _break_oneof,
        _break_zero,
        _break_prefix,
        _break_service,
        _break_request,
        _break_sharing,
    ],
)
def test_each_broken_naming_rule_is_noticed(damage: Callable[[FileDescriptorSet], None]) -> None:
    broken = committed()
    damage(broken)
    assert naming_faults(broken)


def test_every_answer_but_the_admins_names_the_block_it_was_read_from(schema: FileDescriptorSet) -> None:
    for service, method in methods(schema):
        response = message_named(schema, f"{method.name}Response")
        has_it = any(
            field.name == "at" and field.number == 1 and field.type_name == ".trellis.v1.BlockRef"
            for field in response.field
        )
        assert has_it == (service != "AdminService"), response.name


def test_every_list_is_paged(schema: FileDescriptorSet) -> None:
    for service, method in methods(schema):
        if not method.name.startswith("List"):
            continue
        for suffix, shared in (("Request", "PageRequest"), ("Response", "PageResponse")):
            fields = {field.name: field.type_name for field in message_named(schema, method.name + suffix).field}
            assert fields.get("page") == f".trellis.v1.{shared}", f"{service}.{method.name}{suffix}"


def test_services_show_raw_bytes_only_for_what_is_signed_hashed_or_a_key(schema: FileDescriptorSet) -> None:
    shown = {
        field.name
        for file in schema.file
        if file.name not in MACHINE_FILES
        for message in messages(file)
        for field in message.field
        if field.type == FieldDescriptorProto.TYPE_BYTES
    }
    assert shown == BYTES_FIELDS


def test_no_number_of_the_schema_is_a_float(schema: FileDescriptorSet) -> None:
    floats = (FieldDescriptorProto.TYPE_FLOAT, FieldDescriptorProto.TYPE_DOUBLE)
    fields = [field for file in schema.file for message in messages(file) for field in message.field]
    assert [field.name for field in fields if field.type in floats] == []


def test_transaction_kinds_carry_the_numbers_of_the_bodys_fields(schema: FileDescriptorSet) -> None:
    body = message_named(schema, "TransactionBody")
    in_body = {field.number: field.name.upper() for field in body.field if field.HasField("oneof_index")}
    kinds = enum_named(schema, "TransactionKind").value[1:]
    assert {kind.number: kind.name.removeprefix("TRANSACTION_KIND_") for kind in kinds} == in_body


def test_the_descriptor_set_is_what_the_schema_compiles_to(schema: FileDescriptorSet, tmp_path: Path) -> None:
    out = tmp_path / "fresh.binpb"
    sources = sorted(str(path.relative_to(PROTO_ROOT)) for path in SCHEMA.glob("*.proto"))
    options = ("-I.", "--include_imports", "--include_source_info", f"--descriptor_set_out={out}")
    done = run_python("-m", "grpc_tools.protoc", *options, *sources)
    assert (done.returncode, done.stderr) == (0, "")
    assert FileDescriptorSet.FromString(out.read_bytes()) == schema
    assert sorted(file.name for file in schema.file) == sources


def without_compiler_extras(file: FileDescriptorProto) -> FileDescriptorProto:
    """What stubs embed: neither comments nor the JSON names, which follow from the fields' names."""
    bare = FileDescriptorProto()
    bare.CopyFrom(file)
    bare.ClearField("source_code_info")
    for message in messages(bare):
        for field in (*message.field, *(field for nested in message.nested_type for field in nested.field)):
            field.ClearField("json_name")
    return bare


def test_the_stubs_know_the_same_schema_as_the_descriptor_set(schema: FileDescriptorSet) -> None:
    for file in schema.file:
        module = importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
        known = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(known)
        assert without_compiler_extras(known) == without_compiler_extras(file), file.name


def test_message_stubs_import_without_grpc_and_without_a_warning() -> None:
    names = [f"trellis.v1.{path.stem}_pb2" for path in SCHEMA.glob("*.proto")]
    done = run_python("-c", f"import sys, {', '.join(names)}; sys.exit('grpc' in sys.modules)")
    assert (done.returncode, done.stderr) == (0, "")


def test_service_stubs_exist_only_for_services_and_import_without_a_warning(schema: FileDescriptorSet) -> None:
    names = sorted(path.stem for path in SCHEMA.glob("*_pb2_grpc.py"))
    with_services = (file.name for file in schema.file if file.service)
    assert names == sorted(f"{Path(name).stem}_pb2_grpc" for name in with_services)
    done = run_python("-c", f"import {', '.join(f'trellis.v1.{name}' for name in names)}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(SCHEMA, tmp_path / "trellis" / "v1", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(PROTO_ROOT / "generate.py", tmp_path / "generate.py")
    return tmp_path


def test_what_is_committed_is_what_the_schema_compiles_to() -> None:
    done = run_python("generate.py", "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _new_comment(folder: Path) -> str:
    path = folder / "common.proto"
    path.write_text(path.read_text().replace("// How fresh an answer must be.", "// How stale it may be."))
    return "+" + '    """How stale it may be."""'


def _edited_stub(folder: Path) -> str:
    path = folder / "chain_pb2.py"
    path.write_text(path.read_text() + "PLANTED = 1\n")
    return "-PLANTED = 1"


def _missing_stub(folder: Path) -> str:
    (folder / "p2p_pb2.pyi").unlink()
    return "trellis/v1/p2p_pb2.pyi is missing"


def _leftover_stub(folder: Path) -> str:
    (folder / "old_pb2.py").write_text("")
    return "trellis/v1/old_pb2.py belongs to no .proto file any more"


def _stale_descriptor(folder: Path) -> str:
    path = folder / "descriptor.binpb"
    path.write_bytes(path.read_bytes()[:-1])
    return "trellis/v1/descriptor.binpb differs"


def _broken_schema(folder: Path) -> str:
    (folder / "p2p.proto").write_text('syntax = "proto3"; message {')
    return "protoc refused the schema"


@pytest.mark.parametrize(
    "plant", [_new_comment, _edited_stub, _missing_stub, _leftover_stub, _stale_descriptor, _broken_schema]
)
def test_the_check_names_what_differs(copy: Path, plant: Callable[[Path], str]) -> None:
    expected = plant(copy / "trellis" / "v1")
    done = run_python("generate.py", "--check", cwd=copy)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_generating_again_mends_what_differs(copy: Path) -> None:
    folder = copy / "trellis" / "v1"
    for plant in (_new_comment, _edited_stub, _missing_stub, _leftover_stub, _stale_descriptor):
        plant(folder)
    assert run_python("generate.py", cwd=copy).returncode == 0
    assert run_python("generate.py", "--check", cwd=copy).returncode == 0
    assert not (folder / "old_pb2.py").exists()


def test_a_schema_that_does_not_compile_leaves_the_stubs_as_they_were(copy: Path) -> None:
    folder = copy / "trellis" / "v1"
    _broken_schema(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_python("generate.py", cwd=copy).returncode == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
