"""CXL memory devices: asking the tool, a kept listing, and how they are shown."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from isotherm.core.errors import TopologyError
from isotherm.topology.cxl_devices import (
    COMMAND,
    as_json,
    ask_tool,
    list_names,
    read_listing,
    render_device,
)

LISTING = json.dumps(
    [
        {
            "memdev": "mem0",
            "ram_size": 274877906944,
            "numa_node": 1,
            "health": {
                "media_normal": True,
                "life_used_percent": 3,
                "temperature": 45,
                "ext_temperature": "warning",
                "dirty_shutdowns": 2,
            },
        },
        {"memdev": "mem1", "state": "disabled"},
    ]
)


def machine(root: Path, *names: str) -> Path:
    """Return a tree with these CXL devices."""
    for name in names:
        (root / "sys/bus/cxl/devices" / name).mkdir(parents=True)
    return root


def test_names_by_number(tmp_path: Path) -> None:
    """Memory devices alone, and mem10 after mem9."""
    root = machine(tmp_path, "mem10", "mem9", "region0", "endpoint2", "memory")
    assert ("mem9", "mem10") == list_names(root)
    assert () == list_names(tmp_path / "nowhere")


def test_the_tool_is_asked_as_documented() -> None:
    """One command, and its devices come back."""
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str:
        asked.append(command)
        return LISTING

    assert ["mem0", "mem1"] == [device.memdev for device in ask_tool(run)]
    assert [("cxl", "list", "-M", "-H", "-i")] == asked == [COMMAND]


def test_a_tool_that_fails_is_named() -> None:
    """With the command and what was wrong."""

    def fail(command: Sequence[str]) -> str:
        raise subprocess.CalledProcessError(1, list(command))

    with pytest.raises(TopologyError, match=r"cxl list -M -H -i: .*exit status 1"):
        ask_tool(fail)
    with pytest.raises(TopologyError, match="cxl list -M -H -i: expected the JSON"):
        ask_tool(lambda _: "no devices found")


def test_a_tool_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what it is for, the hint how to get it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TopologyError, match="cxl: not installed") as error:
        ask_tool()
    assert error.value.hint is not None
    assert "ndctl" in error.value.hint


def test_in_words() -> None:
    """Size, node, state, health, troubles last."""
    first, second = ask_tool(lambda _: LISTING)
    assert (
        "256 GiB volatile, node 1, media normal, life 3 % used, 45 °C, "
        "2 dirty shutdowns, temperature warning" == render_device(first)
    )
    assert "disabled, health unknown" == render_device(second)


def test_as_json() -> None:
    """Bytes and nulls; troubles as a list."""
    first, second = map(as_json, ask_tool(lambda _: LISTING))
    assert 274877906944 == first["ram_bytes"]
    assert isinstance(first["health"], dict)
    assert ["temperature warning"] == first["health"]["troubles"]
    assert first["health"]["media_data_lost"] is None
    assert (None, False) == (second["health"], second["enabled"])


def test_a_kept_listing(tmp_path: Path) -> None:
    """From a file; a broken one is named with the command that makes a good one."""
    path = tmp_path / "cxl.json"
    path.write_text(LISTING)
    assert 2 == len(read_listing(path))
    path.write_text('[{"memdev": 7}]')
    with pytest.raises(TopologyError, match=r"cxl.json: \[0\].memdev: exp") as error:
        read_listing(path)
    assert f"cxl list -M -H -i > {path}" == error.value.hint
    with pytest.raises(TopologyError, match=r"gone.json: cannot be read: No such file"):
        read_listing(tmp_path / "gone.json")
