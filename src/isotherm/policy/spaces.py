"""Policies and spaces that come and go."""

from typing import NoReturn

from isotherm.core.errors import UnsupportedError


def refuse_renewal(policy: str) -> NoReturn:
    """Say that a policy is for a footprint that stays as it is.

    Raises:
        UnsupportedError: Always.
    """
    raise UnsupportedError(
        f"policy {policy!r}: spaces have changed, and it follows one footprint that"
        " stays as it is",
        hint="take isotherm or first-touch where processes come and go",
    )
