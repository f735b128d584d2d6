"""``isotherm doctor``: what this host offers, and what would enable the rest."""

import textwrap
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from isotherm.cli.output import MAX_COLUMNS, print_json, print_text

if TYPE_CHECKING:
    from isotherm.core.availability import Availability
    from isotherm.daemon.doctor.report import Report

EPILOGUE = """\
Examples:
  isotherm doctor
  sudo isotherm doctor --missing
  isotherm doctor --json

Nothing is changed. Commands are for you to judge: some are for the whole host.

Overhead: reads some hundred small files and asks some twenty system calls for
things that do nothing, 0.3 s.
"""

app = App(
    name="doctor",
    help="Show what this host offers, and the command that enables the rest.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
)

HEADINGS: Final = (
    ("source", "Sources: how accesses can be seen"),
    ("actuator", "Actuators: what can move memory"),
    ("mover", "Other movers: who moves memory now"),
    ("device", "CXL memory devices"),
    ("gpu", "GPUs: whether pages can move to their memory"),
    ("permission", "Permissions of this user"),
)
_NAME: Final = 24


@app.default
def doctor(
    *,
    missing: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show hint sources, actuators, other movers and permissions of this host.

    Parameters
    ----------
    missing
        Show only what is missing and can be enabled, and movers that are active.
    json
        Print one JSON document.
    """
    import os  # noqa: PLC0415  # --help is quick

    # The drivers' loops are not run here: do not load what compiles them.
    os.environ.setdefault("ISOTHERM_KERNELS", "numpy")
    from isotherm.daemon.doctor.report import examine  # noqa: PLC0415  # numpy

    report = examine()
    if json:
        print_json(report.to_json())
    else:
        _print(report, missing=missing)
    return 0


def _print(report: "Report", *, missing: bool) -> None:
    nodes = ", ".join(map(str, report.nodes))
    on = "on node" if len(report.nodes) == 1 else "on nodes"
    some = {0: "memory of unknown tiers", 1: "1 tier of memory"}
    tiers = some.get(report.tiers, f"{report.tiers} tiers of memory")
    print_text(f"kernel {report.kernel.release}; {tiers}, {on} {nodes}")
    lacking = [name for name, value in report.kernel.options.items() if value == "n"]
    if lacking and not missing:
        _wrapped(f"built without: {', '.join(lacking)}", 2)
    for kind, heading in HEADINGS:
        facts = [
            fact for fact in report.of(kind) if not missing or _worth_telling(fact)
        ]
        if not facts:
            continue
        print_text(f"\n{heading}")
        for fact in facts:
            _print_fact(fact)
    print_text()
    _wrapped(report.verdict, 0)


def _worth_telling(fact: "Availability") -> bool:
    if fact.kind == "mover":
        return fact.present
    return not fact.present and fact.command is not None


def _print_fact(fact: "Availability") -> None:
    if fact.kind == "mover":
        mark = "active" if fact.present else "-"
    else:
        mark = "yes" if fact.present else "no"
    head = f"  {mark:<6} {fact.name:<{_NAME}} "
    print_text(
        textwrap.fill(
            fact.why,
            MAX_COLUMNS,
            initial_indent=head,
            subsequent_indent=" " * 34,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
    if fact.command is not None:
        # Not wrapped: it is to be pasted.
        print_text(f"         $ {fact.command}")


def _wrapped(text: str, indent: int) -> None:
    print_text(
        textwrap.fill(
            text,
            MAX_COLUMNS,
            initial_indent=" " * indent,
            subsequent_indent=" " * (indent + 2),
            break_on_hyphens=False,
        )
    )
