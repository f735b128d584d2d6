"""The journal of changes: written before the change, undone newest first."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from isotherm.core import changes as module
from isotherm.core.changes import HostChanges, JournalBusyError, undoes
from isotherm.core.errors import IsothermError, NotPermittedError

UNDONE: list[dict[str, object]] = []


@undoes("test-thing")
def undo_thing(facts):
    """Remember what was undone."""
    UNDONE.append(dict(facts))
    return f"thing {facts['name']}: removed"


@pytest.fixture
def tree(tmp_path):
    """Return a small tree as sysfs shows it: one value a file."""
    UNDONE.clear()
    root = tmp_path / "sys"
    root.mkdir()
    for name, value in (("a", "0\n"), ("b", "false\n"), ("c", "always [madvise] no\n")):
        (root / name).write_text(value)
    return root


def run_and_kill(journal: Path, body: str) -> int:
    """Run Python with ``changes`` open on the journal until it kills itself."""
    text = "from pathlib import Path\nimport os, signal\n"
    text += "from isotherm.core import changes as module\n"
    text += f"changes = module.HostChanges(Path({str(journal)!r}))\n"
    done = subprocess.run(
        [sys.executable, "-c", text + textwrap.dedent(body)], check=False
    )
    return done.returncode


def test_restore_puts_every_value_back_newest_first(tree, tmp_path):
    """After restore every file says what it said, and the journal is gone."""
    journal = tmp_path / "run" / "journal"
    changes = HostChanges(journal)
    assert changes.write(tree / "a", 1)
    assert changes.write(tree / "b", "true")
    assert changes.write(tree / "a", 2)
    said = changes.restore()
    changes.close()
    assert [
        f"{tree}/a: '2' -> '1'",
        f"{tree}/b: 'true' -> 'false'",
        f"{tree}/a: '1' -> '0'",
    ] == said
    assert ["0\n", "false\n"] == [(tree / name).read_text() for name in "ab"]
    assert not journal.exists()


def test_restore_twice_does_nothing_more(tree, tmp_path):
    """A second restore, and a recovery after it, find nothing."""
    journal = tmp_path / "journal"
    changes = HostChanges(journal)
    changes.write(tree / "a", 1)
    assert len(changes.restore()) == 1
    assert changes.restore() == []
    changes.close()
    assert HostChanges.recover(journal) == []


def test_a_value_that_is_there_already_is_no_change(tree):
    """Writing what a file says changes nothing and leaves nothing to undo."""
    changes = HostChanges(None)
    assert not changes.write(tree / "a", 0)
    assert changes.pending == 0


def test_the_chosen_word_of_a_list_is_what_comes_back(tree):
    """A file that lists its choices is restored to the word in brackets."""
    changes = HostChanges(None)
    changes.write(tree / "c", "always")
    changes.restore()
    assert (tree / "c").read_text() == "madvise\n"


def test_a_refused_write_leaves_nothing_behind(tree, tmp_path):
    """A file that cannot be written raises and is not in the journal."""
    journal = tmp_path / "journal"
    changes = HostChanges(journal)
    with pytest.raises(OSError, match="missing"):
        changes.write(tree / "missing", 1)
    assert changes.pending == 0
    with pytest.raises(KeyError):
        changes.made("nobody undoes this", name="x")
    assert changes.pending == 0


def test_the_journal_is_written_before_the_file(tree, tmp_path):
    """Killed between journal and write: recovery finds the file as it was."""
    journal = tmp_path / "journal"
    code = run_and_kill(
        journal,
        f"""
        module.write_value = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        changes.write(Path({str(tree / "a")!r}), 1)
        """,
    )
    assert -signal.SIGKILL == code
    assert (tree / "a").read_text() == "0\n"
    assert '"old": "0"' in journal.read_text()
    assert [f"{tree}/a: says '0' as before"] == HostChanges.recover(journal)
    assert (tree / "a").read_text() == "0\n"


def test_recovery_after_a_kill_undoes_and_is_idempotent(tree, tmp_path):
    """Killed after changes: the next start restores them once."""
    journal = tmp_path / "journal"
    code = run_and_kill(
        journal,
        f"""
        changes.write(Path({str(tree / "a")!r}), 1)
        changes.write(Path({str(tree / "b")!r}), "true")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert -signal.SIGKILL == code
    assert (tree / "b").read_text() == "true\n"
    said = HostChanges.recover(journal)
    assert [f"{tree}/b: 'true' -> 'false'", f"{tree}/a: '1' -> '0'"] == said
    assert [] == HostChanges.recover(journal)
    assert ["0\n", "false\n"] == [(tree / name).read_text() for name in "ab"]


def test_killed_between_write_and_the_note_of_it(tree, tmp_path):
    """Killed right after the write, the value still goes back."""
    journal = tmp_path / "journal"
    code = run_and_kill(
        journal,
        f"""
        write = module.write_value
        def write_and_die(path, value):
            write(path, value)
            os.kill(os.getpid(), signal.SIGKILL)
        module.write_value = write_and_die
        changes.write(Path({str(tree / "a")!r}), 1)
        """,
    )
    assert -signal.SIGKILL == code
    assert (tree / "a").read_text() == "1\n"
    assert [f"{tree}/a: '1' -> '0'"] == HostChanges.recover(journal)
    assert (tree / "a").read_text() == "0\n"


def test_a_torn_last_line_is_a_change_that_was_not_made(tree, tmp_path):
    """Half a line at the end is dropped; what stands before it is undone."""
    journal = tmp_path / "journal"
    changes = HostChanges(journal)
    changes.write(tree / "a", 1)
    with journal.open("a") as file:
        file.write('{"change": 2, "path": "/x", "ol')
    os.close(changes._file)
    changes._file = None
    assert [f"{tree}/a: '1' -> '0'"] == HostChanges.recover(journal)


def test_what_is_made_and_undone_for_months_takes_no_more_room(tree, tmp_path):
    """The journal is as short as at first once nothing in it is left to undo."""
    journal = tmp_path / "journal"
    with HostChanges(journal) as changes:
        head = journal.read_text()
        for _ in range(3):
            changes.write(tree / "a", 1)
            changes.write(tree / "b", "true")
            changes.restore()

            assert head == journal.read_text()
        changes.write(tree / "a", 1)
        os.close(changes._file)
        changes._file = None
        assert [f"{tree}/a: '1' -> '0'"] == HostChanges.recover(journal)


def test_files_that_are_gone_are_no_error(tree, tmp_path):
    """A file that has vanished counts as restored."""
    changes = HostChanges(tmp_path / "journal")
    changes.write(tree / "a", 1)
    (tree / "a").unlink()
    assert [f"{tree}/a: gone meanwhile"] == changes.restore()
    assert changes.pending == 0


def test_what_somebody_else_changed_meanwhile_stays(tree):
    """A value that is not ours any more is left alone, and said."""
    changes = HostChanges(None)
    changes.write(tree / "a", 1)
    (tree / "a").write_text("7\n")
    assert [f"{tree}/a: left at '7', somebody else has changed it"] == changes.restore()
    assert (tree / "a").read_text() == "7\n"


def test_what_cannot_be_restored_stays_in_the_journal(tree, tmp_path, monkeypatch):
    """An entry whose undo fails is reported and tried again."""
    changes = HostChanges(tmp_path / "journal")
    changes.write(tree / "a", 1)

    def refuse(path, value):
        raise PermissionError(13, "no")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_value", refuse)
        assert [f"{tree}/a: not restored: EACCES"] == changes.restore()
    assert changes.pending == 1
    changes.restore()
    assert (tree / "a").read_text() == "0\n"


def test_other_changes_are_undone_by_kind(tree, tmp_path):
    """What ``made`` noted is undone by its function, in the order of all."""
    changes = HostChanges(tmp_path / "journal")
    changes.made("test-thing", name="one")
    changes.write(tree / "a", 1)
    changes.made("test-thing", name="two")
    said = changes.restore()
    assert ["thing two: removed", f"{tree}/a: '1' -> '0'", "thing one: removed"] == said
    assert [{"name": "two"}, {"name": "one"}] == UNDONE


def test_one_kind_can_be_restored_alone(tree):
    """A source that closes undoes its own changes only."""
    changes = HostChanges(None)
    changes.made("test-thing", name="one")
    changes.write(tree / "a", 1)
    assert ["thing one: removed"] == changes.restore("test-thing")
    assert changes.pending == 1


def test_a_kind_that_nobody_knows_stays_in_the_journal(tmp_path):
    """Recovery by an older version reports what it cannot undo and keeps it."""
    journal = tmp_path / "journal"
    changes = HostChanges(journal)
    changes.made("test-thing", name="x")
    changes.close()
    journal.write_text(journal.read_text().replace("test-thing", "from-the-future"))
    said = HostChanges.recover(journal)
    assert [
        "from-the-future: not restored: nobody knows how to undo from-the-future"
    ] == said
    assert journal.exists()


def test_two_processes_do_not_share_a_journal(tree, tmp_path):
    """A journal that is held cannot be opened nor recovered."""
    journal = tmp_path / "journal"
    first = HostChanges(journal)
    first.write(tree / "a", 1)
    with pytest.raises(JournalBusyError, match="another isotherm holds"):
        HostChanges(journal)
    with pytest.raises(JournalBusyError):
        HostChanges.recover(journal)
    first.restore()
    first.close()
    second = HostChanges(journal)
    assert second.pending == 0
    second.close()


def test_a_journal_of_another_boot_is_void(tree, tmp_path):
    """After a reboot the kernel has forgotten: nothing is written."""
    journal = tmp_path / "journal"
    boot = tmp_path / "boot_id"
    boot.write_text("one\n")
    changes = HostChanges(journal, boot_id=boot)
    changes.write(tree / "a", 1)
    os.close(changes._file)
    changes._file = None
    boot.write_text("two\n")
    assert HostChanges.recover(journal, boot_id=boot) == []
    assert (tree / "a").read_text() == "1\n"


def test_the_context_restores_on_an_error(tree, tmp_path):
    """Leaving the block, for whatever reason, restores."""

    def change_and_fail():
        with HostChanges(tmp_path / "journal") as changes:
            changes.write(tree / "a", 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert (tree / "a").read_text() == "0\n"


def test_every_line_is_json(tree, tmp_path):
    """People and scripts can read the journal."""
    journal = tmp_path / "journal"
    changes = HostChanges(journal)
    changes.write(tree / "a", 1)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    changes.restore()
    changes.close()
    assert ["format", "change", "wrote"] == [next(iter(line)) for line in lines]


def journal_of(tmp_path, *lines, **head):
    """Return a journal of a dead process of this boot, as another wrote it."""
    boot = module.BOOT_ID.read_text().strip()
    first = {"format": "isotherm-journal", "version": 1, "boot": boot} | head
    path = tmp_path / "journal"
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("head", "line", "expected"),
    [
        ({"version": 2}, {}, "is of version 2, expected 1"),
        ({"version": None}, {}, "is of version None, expected 1"),
        ({"format": "other"}, {}, "is no journal of isotherm"),
        ({}, {"change": 1, "path": "A", "old": "7", "mode": 3}, "holds what is no"),
        ({}, {"change": 1, "path": "A", "old": 7}, "holds what is no change"),
        ({}, {"change": 1, "kind": "x", "module": "", "facts": []}, "holds what is no"),
        ({}, {"wrote": 1, "change": "x", "path": "A", "old": "7"}, "holds what is no"),
    ],
)
def test_a_journal_that_is_not_ours_is_told(tree, tmp_path, head, line, expected):
    """Its file is named, with what to do; nothing of it is done, nothing is lost."""
    if "path" in line:
        line = line | {"path": str(tree / "a")}
    journal = journal_of(tmp_path, line, **head)
    before = journal.read_bytes()
    for begin in (HostChanges.recover, HostChanges):
        with pytest.raises(IsothermError) as error:
            begin(journal)
        assert error.value.message.startswith(f"{journal}: {expected}")
        assert "remove the file" in str(error.value.hint)
    assert before == journal.read_bytes()
    assert "0\n" == (tree / "a").read_text()


def test_no_journal_at_all_is_told(tmp_path):
    """A file of something else is left as it is."""
    (tmp_path / "journal").write_text("shopping\nlist\n")
    (tmp_path / "journal").chmod(0o600)
    with pytest.raises(IsothermError, match="is no journal of isotherm"):
        HostChanges(tmp_path / "journal")
    assert "shopping\nlist\n" == (tmp_path / "journal").read_text()


def test_facts_of_another_version_are_told(tree, tmp_path):
    """A change whose facts its undo does not know stays; the others are undone."""
    path = str(tree / "a")
    journal = journal_of(
        tmp_path,
        {"change": 1, "path": path, "old": "9"},
        {"change": 2, "kind": "test-thing", "module": "", "facts": {"title": "x"}},
        {"change": 3, "kind": "y", "module": "isotherm.core.no_such", "facts": {}},
    )
    said = HostChanges.recover(journal)
    assert [
        "y: not restored: nobody knows how to undo y",
        f"test-thing: not restored: {module._why(KeyError('name'))}",
        f"{path}: '0' -> '9'",
    ] == said
    assert journal.exists()


def test_the_folder_is_ours_alone_whatever_the_umask(tmp_path):
    """With a umask of 0 nobody else may write it or the journal."""
    before = os.umask(0)
    try:
        changes = HostChanges(tmp_path / "run" / "journal")
    finally:
        os.umask(before)
    paths = (tmp_path / "run", tmp_path / "run" / "journal")
    assert [0o700, 0o600] == [path.stat().st_mode & 0o777 for path in paths]
    changes.close()


@pytest.mark.parametrize("planted", ["writable", "link", "file", "owner", "journal"])
def test_a_journal_that_others_could_have_written_is_refused(tree, tmp_path, planted):
    """Not one line of it is undone, and what is wrong is said."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    path = str(tree / "a")
    journal = journal_of(directory, {"change": 1, "path": path, "old": "owned"})
    expected = "a directory of user"
    if planted == "writable":
        directory.chmod(0o770)
    elif planted == "link":
        directory = directory.rename(tmp_path / "theirs")
        (tmp_path / "run").symlink_to(directory)
    elif planted == "file":
        journal.rename(tmp_path / "elsewhere")
        journal.symlink_to(tmp_path / "elsewhere")
        expected = "a file of user"
    elif os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    elif planted == "owner":
        os.chown(directory, 65534, 65534)
    else:
        os.chown(journal, 65534, 65534)
        expected = "a file of user"
    for begin in (HostChanges.recover, HostChanges):
        with pytest.raises(NotPermittedError, match=expected) as error:
            begin(tmp_path / "run" / "journal")
        assert "ISOTHERM_RUN_DIRECTORY" in str(error.value.hint)
    assert "0\n" == (tree / "a").read_text()


@pytest.fixture
def room(monkeypatch):
    """Return a list with the bytes for which there is room; None: enough."""
    left = [None]
    write = os.write

    def short(fd, data):
        if left[0] is None:
            return write(fd, data)
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = write(fd, data[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(module.os, "write", short)
    return left


@pytest.mark.parametrize("bytes_left", [0, 1, 17])
def test_what_the_journal_has_no_room_for_is_not_done(tree, tmp_path, room, bytes_left):
    """A part of a line does not stay: it would swallow the next one."""
    journal = tmp_path / "run" / "journal"
    changes = HostChanges(journal)
    room[0] = bytes_left
    with pytest.raises(OSError, match="No space"):
        changes.write(tree / "a", 1)
    assert "0\n" == (tree / "a").read_text()
    room[0] = None
    assert changes.write(tree / "b", "true")
    os.close(changes._file)  # killed
    changes._file = None
    assert [f"{tree}/b: 'true' -> 'false'"] == HostChanges.recover(journal)


def test_a_write_that_cannot_be_noted_is_taken_back(tree, tmp_path, monkeypatch):
    """What was written is the second line of a change; with others it has no room."""
    changes = HostChanges(tmp_path / "run" / "journal")
    assert changes.write(tree / "b", "true")
    log = changes._log

    def full(line):
        if "wrote" in line or "undone" in line:
            raise OSError(errno.ENOSPC, "No space")
        log(line)

    monkeypatch.setattr(changes, "_log", full)
    with pytest.raises(OSError, match="No space"):
        changes.write(tree / "a", 1)
    assert ("0\n", 1) == ((tree / "a").read_text(), changes.pending)
    assert [f"{tree}/b: 'true' -> 'false'"] == changes.restore()
    changes.close()
