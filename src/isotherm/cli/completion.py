"""``isotherm completion``: what a shell completes."""

from typing import Literal

from cyclopts import App

from isotherm.cli.output import print_text

EPILOGUE = """\
Examples:
  isotherm completion bash > ~/.local/share/bash-completion/completions/isotherm
  isotherm completion zsh > ~/.zfunc/_isotherm
  isotherm completion fish > ~/.config/fish/completions/isotherm.fish
"""

app = App(name="completion", help_epilogue=EPILOGUE, help_format="plaintext")


@app.default
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print what a shell needs to complete verbs and options.

    Parameters
    ----------
    shell
        bash, zsh or fish.
    """
    from isotherm.cli.main import build_app  # noqa: PLC0415  # which imports this one

    print_text(build_app().generate_completion(shell=shell).rstrip())
    return 0
