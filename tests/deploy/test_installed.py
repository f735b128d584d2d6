"""What comes with the command: a manual page, completion."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from isotherm.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/man/isotherm.1"


def test_the_manual_page_is_as_built() -> None:
    """The committed page is what the script writes, with every verb."""
    built = subprocess.run(
        [sys.executable, ROOT / "docs/man/build.py"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert built.stdout == PAGE.read_text()
    for name, _, _ in VERBS:
        assert f"\n.B {name}\n" in built.stdout


def test_the_manual_page_is_set_without_a_warning() -> None:
    """By groff, as man shows it at 80 columns."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff on the path")
    done = subprocess.run(
        [groff, "-man", "-ww", "-Tutf8", "-rLL=78n", PAGE],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "" == done.stderr
    assert "memory tiering" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")]
)
def test_completion_is_a_script_of_its_shell(shell: str, check: str) -> None:
    """With every verb in it; the shell itself reads it without a complaint."""
    made = subprocess.run(
        [sys.executable, "-m", "isotherm", "completion", shell],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name, _, _ in VERBS:
        assert name in made
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on the path; the script is made and has every verb")
    done = subprocess.run(
        [program, check], check=False, input=made, capture_output=True, text=True
    )
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.slow
def test_bash_completes_a_verb() -> None:
    """As a user who presses tab after three letters."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on the path")
    script = (
        f"source <({sys.executable} -m isotherm completion bash)\n"
        "COMP_WORDS=(isotherm top); COMP_CWORD=1; _isotherm; echo ${COMPREPLY[@]}\n"
    )
    done = subprocess.run(
        [bash, "-c", script], check=True, capture_output=True, text=True
    )
    assert {"top", "topology"} == set(done.stdout.split())
