"""Files that a person names: links are followed, devices are left alone."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from isotherm.core.errors import (
    ConfigError,
    IsothermError,
    NotPermittedError,
    UsageError,
)
from isotherm.core.files import check_writable, file_error, output_file
from isotherm.lab.money import read_costs
from isotherm.lab.store import ResultStore, append_row
from isotherm.machine.sim.spec import load_machine
from isotherm.observability.recording import check_directory, read_run
from isotherm.topology.override import read_overrides
from isotherm.topology.tree import open_tree
from isotherm.workloads.recorded import open_recorded
from isotherm.workloads.toml_file import read_workload


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, NotPermittedError),
        (errno.EROFS, NotPermittedError),
        (errno.ENOSPC, IsothermError),
        (errno.ENOENT, ConfigError),
    ],
)
def test_errors_by_what_the_system_says(number: int, kind: type) -> None:
    """Forbidden is 4, a disk that fails 1, the rest what the caller says."""
    error = OSError(number, os.strerror(number))
    told = file_error(Path("x.toml"), error, "cannot be read", ConfigError)
    assert kind is type(told)
    assert f"x.toml: cannot be read: {os.strerror(number)}" == told.message


def test_links_are_followed(tmp_path: Path) -> None:
    """What a link leads to is what is written, even where it does not exist yet."""
    link = tmp_path / "link"
    link.symlink_to("folder/target")
    assert tmp_path / "folder/target" == output_file(link)
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(UsageError, match="loop"):
        output_file(loop)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a pipe, and a link to one."""
    with pytest.raises(UsageError, match="is a folder"):
        output_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match="is a device, pipe or socket"):
            check_writable(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_writable_is_tried(tmp_path: Path) -> None:
    """Nothing is left behind, what is there stays, and errors come at once."""
    there = tmp_path / "there"
    there.write_text("kept")
    check_writable(there)
    check_writable(tmp_path / "new")
    assert ["there"] == [path.name for path in tmp_path.iterdir()]
    assert "kept" == there.read_text()
    with pytest.raises(UsageError, match="No such file"):
        check_writable(tmp_path / "missing/new")
    with pytest.raises(UsageError, match="too long"):
        check_writable(tmp_path / ("x" * 300))


def test_what_may_not_be_read_is_not_permitted(tmp_path: Path) -> None:
    """Of every reader and writer of files that people name: exit code 4."""
    secret, closed = tmp_path / "secret.toml", tmp_path / "closed"
    secret.write_text("")
    secret.chmod(0)
    closed.mkdir(mode=0)
    tree = closed / "tree"
    attempts: list[Callable[[], object]] = [
        lambda: check_writable(closed / "new"),
        lambda: ResultStore(closed / "grid.parquet"),
        lambda: append_row(secret, "key", {}),
        lambda: read_costs(secret),
        lambda: load_machine(str(secret)),
        lambda: read_overrides(secret),
        lambda: open_tree(tree),
        lambda: read_workload(secret, 8, 1),
        lambda: open_recorded(secret),
        lambda: check_directory(closed / "run"),
        lambda: read_run(closed),
    ]
    user = os.geteuid()
    for attempt in attempts:
        if user == 0:
            tmp_path.chmod(0o755)
            os.seteuid(65534)  # nobody: root may read everything
        try:
            with pytest.raises(NotPermittedError):
                attempt()
        finally:
            os.seteuid(user)
