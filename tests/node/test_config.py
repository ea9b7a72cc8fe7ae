"""Configuration: where values come from, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import Config, ConfigInvalid, load_config


def write(folder: Path, text: str) -> Path:
    path = folder / "trellis.toml"
    path.write_text(text)
    return path


def source_of(path: Path | None, environment: dict[str, str], name: str) -> tuple[object, str]:
    settings = {setting.name: setting for setting in load_config(path, environment).settings}
    return settings[name].value, settings[name].source


def test_without_file_and_environment_the_defaults_are_in_force() -> None:
    assert load_config(None, {}).config == Config()


def test_the_file_overrides_the_default_and_the_environment_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[grpc]\nlisten = "127.0.0.1:1"\n')
    assert source_of(None, {}, "grpc.listen") == (Config().grpc.listen, "default")
    assert source_of(path, {}, "grpc.listen") == ("127.0.0.1:1", str(path))
    assert source_of(path, {"TRELLIS_GRPC_LISTEN": "x:2"}, "grpc.listen") == ("x:2", "TRELLIS_GRPC_LISTEN")


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("TRELLIS_NODE_VALIDATOR", "true", True),
        ("TRELLIS_NODE_KEEP_HEIGHTS", "12", 12),
        (
            "TRELLIS_P2P_STATIC_PEERS",
            "/ip4/1.2.3.4/tcp/1, /ip4/1.2.3.5/tcp/1",
            ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.5/tcp/1"),
        ),
        ("TRELLIS_LOG_LEVEL", "debug", "debug"),
    ],
)
def test_variables_are_read_by_the_type_of_their_key(variable: str, text: str, value: object) -> None:
    name = variable.removeprefix("TRELLIS_").lower().replace("_", ".", 1)
    assert source_of(None, {variable: text}, name) == (value, variable)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1\n", "colour"),
        ("[node]\ncolour = 1\n", "colour"),
        ("node = 3\n", "node is a section"),
        ("[node]\nkeep_heights = true\n", "node.keep_heights"),
        ('[node]\nkeep_heights = "1"\n', "node.keep_heights"),
        ("[p2p]\nlisten = [1]\n", "p2p.listen"),
        ('[log]\nlevel = "loud"\n', "log.level"),
        ("[node\n", "not TOML"),
    ],
)
def test_a_wrong_file_is_refused_and_the_key_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigInvalid, match=named):
        load_config(write(tmp_path, text), {})


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TRELLIS_NODE_COLOUR", "1"),
        ("TRELLIS_NODE_VALIDATOR", "yes"),
        ("TRELLIS_NODE_KEEP_HEIGHTS", "many"),
        ("TRELLIS_LOG_FORMAT", "xml"),
    ],
)
def test_a_wrong_variable_is_refused_and_named(variable: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=variable):
        load_config(None, {variable: text})


def test_variables_of_the_command_line_are_left_alone() -> None:
    assert load_config(None, {"TRELLIS_KEY_PASSWORD_FILE": "x", "TRELLIS_OUTPUT": "json"}).config == Config()


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path, ""), {})
    assert loaded.path("data") == tmp_path / "data"


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="cannot read the configuration"):
        load_config(tmp_path / "none.toml", {})
