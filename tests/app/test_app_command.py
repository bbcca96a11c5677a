"""`ossa app` refuses what it cannot serve, in one sentence and before it reads any weights."""

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ossa.app.server import host_names, listening
from ossa.cli.main import app
from ossa.errors import ConfigError


def ossa_app(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["app", *map(str, arguments), "--no-open"])


@pytest.fixture(autouse=True)
def _gradio_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossa.app.server.find_spec", lambda name: object())


def test_a_port_in_use_is_named_with_the_option_that_takes_another() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = ossa_app("--weights", "no.pt", "--port", port)
    assert result.exit_code == 2
    assert f"found port {port} on 127.0.0.1 in use, perhaps by another ossa app" in result.stderr
    assert "--port" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ossa.app.server.find_spec", lambda name: None)
    result = ossa_app("--weights", "no.pt")
    assert result.exit_code == 2
    assert result.stderr == ("error: ossa app needs the package gradio: pip install 'ossa[app]'\n")


def test_a_study_without_a_report_is_refused_with_the_command_that_writes_it(
    tmp_path: Path,
) -> None:
    result = ossa_app("--weights", "no.pt", "--study", tmp_path)
    assert result.exit_code == 2
    assert f"Write it with ossa study report {tmp_path}." in result.stderr


def test_a_host_that_is_no_address_of_this_machine_is_refused() -> None:
    for host in ("nowhere.invalid", "192.0.2.1"):
        with (
            pytest.raises(ConfigError, match=f"of this machine for --host, found '{host}'"),
            listening(host, 7860),
        ):
            pass


def test_beyond_this_machine_the_page_has_a_password_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def serve(*_: object, **settings: Any) -> None:
        settings["on_start"]()
        asked.append(settings)

    monkeypatch.setattr("ossa.app.server.serve", serve)
    monkeypatch.setattr("ossa.app.inference.load_models", lambda *_, **__: [])
    monkeypatch.delenv("OSSA_APP_PASSWORD", raising=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ("--weights", "no.pt", "--port", port, "--device", "cpu")
    printed = [
        ossa_app(*arguments, *more).stderr
        for more in (
            (),
            ("--host", "localhost"),
            ("--host", "0.0.0.0"),
            ("--host", "0.0.0.0", "--no-auth"),
        )
    ]
    passwords = [settings["password"] for settings in asked]
    assert passwords[:2] == [None, None]
    assert len(passwords[2]) >= 16
    assert f"user: ossa, password: {passwords[2]}" in printed[2]
    assert passwords[3] is None
    monkeypatch.setenv("OSSA_APP_PASSWORD", "sesame")
    ossa_app(*arguments, "--host", "0.0.0.0", "--allow-host", "demo.example")
    assert asked[-1]["password"] == "sesame"
    assert asked[-1]["names"][-1] == "demo.example"


def test_what_only_this_machine_reaches_has_its_names_alone() -> None:
    assert host_names("127.0.0.1") == ["localhost", "127.0.0.1", "[::1]"]
    open_names = host_names("0.0.0.0")
    assert socket.gethostname() in open_names
    assert "*" not in "".join(open_names)
