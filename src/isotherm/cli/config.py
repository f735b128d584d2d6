"""``isotherm config``: check and show the configuration, and its schema."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from isotherm.cli.output import note, print_json, print_text

EPILOGUE = """\
Examples:
  isotherm config show > isotherm.toml
  isotherm config check isotherm.toml
  isotherm config schema > isotherm.schema.json
  isotherm run --config isotherm.toml --pid 4242

Overhead: reads one file.
"""

app = App(
    name="config",
    help="Check and show the configuration of isotherm run.",
    help_epilogue=EPILOGUE,
    help_format="plaintext",
)


@app.command
def show(
    path: Path | None = None,
    /,
    *,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Show every key with its value and its meaning.

    Parameters
    ----------
    path
        A configuration (default: /etc/isotherm.toml if it is there, else defaults).
    json
        Print one JSON document.
    """
    from isotherm.daemon.config import (  # noqa: PLC0415  # msgspec
        read_config,
        render_config,
    )
    from isotherm.daemon.config_check import find_host_file  # noqa: PLC0415  # likewise

    config = read_config(find_host_file(note) if path is None else path)
    if json:
        import msgspec  # noqa: PLC0415  # only here

        print_json(msgspec.to_builtins(config))
    else:
        print_text(render_config(config).rstrip())
    return 0


@app.command
def check(path: Path, /) -> int:
    """Say whether a configuration can be used; exit code 2 if not.

    Parameters
    ----------
    path
        A TOML file.
    """
    from isotherm.daemon.config_check import read_checked  # noqa: PLC0415  # msgspec

    read_checked(path)
    print_text(f"{path}: fine")
    return 0


@app.command
def schema() -> int:
    """Print the schema of the file, as JSON Schema for editors and pipelines."""
    import msgspec  # noqa: PLC0415  # only here

    from isotherm.daemon.config import Config  # noqa: PLC0415  # likewise

    print_json(msgspec.json.schema(Config))
    return 0
