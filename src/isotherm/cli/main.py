"""``isotherm VERB``: verbs are imported only when they are called."""

import errno
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from isotherm import __version__
from isotherm.core.errors import IsothermError, NotPermittedError

if TYPE_CHECKING:
    from cyclopts import App, Token

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

#: A disk that takes no more: full, over quota, over a file's limit.
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: 1.5, but not 2.0.
_FRACTION = re.compile(r"[+-]?\d*\.\d*[1-9]\d*")

#: Verb, where it lives, its line in ``isotherm --help``.
VERBS = (
    (
        "demo",
        "isotherm.cli.demo:app",
        "The main job on recorded workloads, with a report.",
    ),
    ("simulate", "isotherm.cli.simulate:app", "One policy, one workload, one machine."),
    ("compare", "isotherm.cli.compare:app", "Policies side by side, with the bounds."),
    ("plan", "isotherm.cli.plan:app", "How much fast memory, for how much money."),
    (
        "fidelity",
        "isotherm.cli.fidelity:app",
        "Published results beside the simulator's.",
    ),
    ("explain", "isotherm.cli.explain:app", "Why a page range is where it is."),
    (
        "run",
        "isotherm.cli.run:app",
        "Keep a process's hot memory in the fast tier.",
    ),
    ("top", "isotherm.cli.top:app", "A run in the terminal, live or recorded."),
    ("serve", "isotherm.cli.serve:app", "A run in the browser, live or recorded."),
    (
        "tenants",
        "isotherm.cli.tenants:app",
        "Who holds how much of the fast tier, and who pays.",
    ),
    (
        "pods",
        "isotherm.cli.pods:app",
        "The pods of this node, and the terms they ask for.",
    ),
    ("stop", "isotherm.cli.stop:app", "Stop runs, restore what they changed."),
    (
        "service",
        "isotherm.cli.service:app",
        "Install isotherm run as a service of systemd.",
    ),
    ("config", "isotherm.cli.config:app", "Check and show the configuration."),
    (
        "topology",
        "isotherm.cli.topology:app",
        "Nodes, tiers, initiators, and who said so.",
    ),
    (
        "doctor",
        "isotherm.cli.doctor:app",
        "What this host offers, and what would enable the rest.",
    ),
    ("trace", "isotherm.cli.trace:app", "Import, record and look at traces."),
    (
        "workload",
        "isotherm.cli.workload:app",
        "Real processes that touch memory and count what they do.",
    ),
    (
        "completion",
        "isotherm.cli.completion:app",
        "What bash, zsh or fish completes.",
    ),
)

EPILOGUE = """\
Data goes to stdout, everything else to stderr. --json prints raw units.
--debug (or ISOTHERM_DEBUG=1) shows the traceback of an unexpected error.
Exit codes: 0 done, 1 failed, 2 usage, 3 unsupported here, 4 not permitted,
5 target gone, 130 interrupted, 143 terminated.

Start with: isotherm demo
"""


def build_app() -> "App":
    """Return the command line; no verb is imported."""
    from cyclopts import App, Parameter  # noqa: PLC0415  # after main()'s fast paths

    app = App(
        default_parameter=Parameter(converter=_convert),
        name="isotherm",
        help="Memory tiering for Linux: move a page only when the move pays.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        version=__version__,
        suppress_keyboard_interrupt=False,
    )
    for place, (name, target, line) in enumerate(VERBS):
        app.command(target, name=name, help=line, sort_key=place)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; prints errors itself."""
    _open_closed_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    debug, words = _take_debug(words)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, less) has gone: that is no error. Python would
        # complain about stdout at exit, so point it elsewhere.
        _let_go_of_stdout()
        return 0
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except IsothermError as error:
        if debug:
            _traceback()
        return _tell(error)
    except PermissionError as error:
        if debug:
            _traceback()
        _say(f"error: {error.filename or 'not permitted'}: {error.strerror or error}")
        return NotPermittedError.exit_code
    except Exception as error:  # noqa: BLE001  # the last line of defence: no traceback for people
        if debug:
            _traceback()
        known = _known(error)
        if known is not None:
            return _tell(known)
        _say(f"error: unexpected {type(error).__name__}: {error}")
        _say("  hint: isotherm --debug shows where")
        return EXIT_FAILED
    return code


def _tell(error: IsothermError) -> int:
    """Print an error and return its exit code."""
    _say(f"error: {error.message}")
    if error.hint:
        _say(f"  hint: {error.hint}")
    return error.exit_code


def _known(error: Exception) -> IsothermError | None:
    """Return what an error means that nobody has caught: a package or a disk."""
    if isinstance(error, ModuleNotFoundError):
        from isotherm.core.extras import not_installed  # noqa: PLC0415  # an error

        return not_installed(error.name)
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        subject = error.filename
        try:
            sys.stdout.flush()
        except OSError:  # what it could not write is still there
            subject = "stdout"
        if subject == "stdout":
            _let_go_of_stdout()
        where = f"{subject}: " if subject else ""
        return IsothermError(f"{where}cannot write: {error.strerror}")
    return None


def _let_go_of_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Send to nowhere what would go to a stream that the caller has closed."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  # as long as we run


def _convert(kind: Any, tokens: "Sequence[Token]") -> Any:
    """Return an option's value; a whole number is not rounded to one.

    Raises:
        CoercionError: A fraction stands where a whole number is expected.
    """
    from cyclopts import CoercionError, convert  # noqa: PLC0415  # as above

    if kind is int or int in get_args(kind):
        for token in tokens:
            if _FRACTION.fullmatch(token.value):
                raise CoercionError(
                    f'expected a whole number, got "{token.value}".',
                    token=token,
                    target_type=int,
                )
    return convert(kind, tokens)


def _run(words: list[str]) -> int:
    from cyclopts import CycloptsError  # noqa: PLC0415  # 0.05 s

    from isotherm.cli.output import error_console, help_console  # noqa: PLC0415

    app = build_app()
    try:
        answer = app(
            words,
            console=help_console(),
            error_console=error_console(),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as error:
        what = _unknown_verb(words) or _unknown_object(app, words) or _unused(error)
        _say(f"error: {what or _one_line(str(error))}")
        _say(f"  hint: isotherm {_help_of(words)}--help")
        return EXIT_USAGE
    return answer if isinstance(answer, int) else 0


def _take_debug(words: list[str]) -> tuple[bool, list[str]]:
    """Take ``--debug`` out of the words before a ``--``."""
    end = words.index("--") if "--" in words else len(words)
    mine = [word for word in words[:end] if word != "--debug"]
    debug = len(mine) < end or os.environ.get("ISOTHERM_DEBUG", "0") not in ("", "0")
    return debug, mine + words[end:]


def _help_of(words: list[str]) -> str:
    names = {name for name, _, _ in VERBS}
    return f"{words[0]} " if words and words[0] in names else ""


def _unknown_verb(words: list[str]) -> str | None:
    """Return what to say of a first word that is no verb; None where it is one."""
    names = [name for name, _, _ in VERBS]
    if not words or words[0] in names or words[0].startswith("-"):
        return None
    from difflib import get_close_matches  # noqa: PLC0415  # only for an error

    near = [name for name in names if name.startswith(words[0])]
    near = near or get_close_matches(words[0], names, n=2)
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no verb is called {words[0]!r}{meant}"


def _unknown_object(app: "App", words: list[str]) -> str | None:
    """Return what to say of a second word that is nearly an object of a verb."""
    if len(words) < 2 or not _help_of(words) or words[1].startswith("-"):
        return None
    from isotherm.core.suggest import did_you_mean  # noqa: PLC0415  # only for an error

    objects = [name for name in app[words[0]] if not name.startswith("-")]
    meant = did_you_mean(words[1], objects)
    if words[1] in objects or not meant:
        return None
    return f"{words[0]}: there is no {words[1]!r}{meant}"


def _unused(error: Exception) -> str | None:
    """Return what to say of words that no option takes; None: it is something else."""
    from cyclopts import UnusedCliTokensError  # noqa: PLC0415  # as above

    if not isinstance(error, UnusedCliTokensError):
        return None
    words = " ".join(error.unused_tokens or ())
    return f"found {words!r}, expected options, as --name VALUE"


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _traceback() -> None:
    import traceback  # noqa: PLC0415  # only for an error

    traceback.print_exc()


def _say(text: str) -> None:
    from isotherm.core.names import printable  # noqa: PLC0415  # only where it failed

    sys.stderr.write(printable(text) + "\n")


if __name__ == "__main__":
    sys.exit(main())
