"""Every command of the pages runs, in order, in a folder of its page's own."""

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from shutil import which

import pytest

from tests.docs.blocks import (
    LANGUAGES,
    PAGES,
    ROOT,
    Block,
    Command,
    blocks_of,
    command_blocks,
    commands_of,
    missing_lines,
)
from tests.docs.surroundings import surroundings

#: What a command begins with, so that none hides in a block of another language.
PROGRAMS = re.compile(r"(\$ |isotherm|sudo|make|pipx?|python3?|\.venv|\.ci)\b")
ALL = os.environ.get("DOCS_COMMANDS") == "all"
#: What a block needs beside the command, by a word in it.
NEEDS = {"isotherm trace record": "valgrind", "| jq ": "jq"}
LIMIT_S = 3600 if ALL else 200


def _is_run(block: Block) -> bool:
    return block.has_commands and (not block.kind or (ALL and block.kind == "long"))


WITH_COMMANDS = [page for page in PAGES if any(map(_is_run, blocks_of(page)))]
LEFT_OUT = [b for b in command_blocks() if not _is_run(b) and b.kind != "elsewhere"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_command_hides(page: Path) -> None:
    """Every fence has a language, and what looks like a command is called one."""
    blocks = blocks_of(page)
    assert page.read_text().count("\n```") in (2 * len(blocks), 2 * len(blocks) - 1)
    assert [] == [b.name for b in blocks if b.language not in sum(LANGUAGES, ())]
    hidden = [
        block.name
        for block in blocks
        if not block.has_commands
        # The synopsis of a command names what may be left out in brackets.
        and any(
            PROGRAMS.match(line) and "[" not in line for line in block.text.split("\n")
        )
        and block.language == "text"
    ]
    assert [] == hidden


def test_marks_are_of_known_kinds() -> None:
    """No comment before a block is a mark misspelt; what runs it elsewhere exists."""
    for page in PAGES:
        text = page.read_text()
        before = re.findall(r"<!-- ([^\n]*) -->\n+```(?:sh|console)\n", text)
        marked = [b for b in blocks_of(page) if b.has_commands and b.kind]
        assert len(before) == len(marked), page
    for block in command_blocks("elsewhere"):
        place = ROOT / block.reason
        assert place.is_file(), block.name
    assert len(command_blocks()) > 40


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize(
    "page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT))
)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """Each ends with 0; what a session shows is printed, figures aside."""
    wanting = set()
    with surroundings(page, tmp_path) as environment:
        for block in filter(_is_run, blocks_of(page)):
            lacks = [p for w, p in NEEDS.items() if w in block.text and not which(p)]
            if lacks:
                wanting.update(lacks)
                continue
            if block.language == "sh":
                run(block, Command(block.text), tmp_path, environment)
                continue
            for command in commands_of(block):
                run(block, command, tmp_path, environment)
    if wanting:
        pytest.skip(f"no {', '.join(wanting)} on the path; all else on the page ran")


def run(
    block: Block, command: Command, place: Path, environment: dict[str, str]
) -> None:
    """Run a command, or a whole script; end what it has left in the background."""
    printed, said = place / ".printed", place / ".said"
    with printed.open("w") as out, said.open("w") as err:
        bash = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail", "-c", command.text],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = bash.wait(LIMIT_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(bash.pid, signal.SIGKILL)
    output = printed.read_text()
    told = f"{block.name}\n{command.text}\n{output[-4000:]}\n{said.read_text()[-4000:]}"
    assert 0 == code, told
    assert [] == missing_lines(command.shown, output), told


@pytest.mark.parametrize("block", LEFT_OUT, ids=lambda block: block.name)
def test_left_out(block: Block) -> None:
    """What is not run here is counted, with its reason."""
    assert len(block.reason.split()) > 1
    where = {
        "guest": "; make vm-all runs it",
        "long": "; make docs-commands runs it",
        "gpu": "; make gpu runs it where there is one",
    }
    pytest.skip(f"{block.reason}{where.get(block.kind, '')}")
