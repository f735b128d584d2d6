"""Memory tiering for Linux: find the isotherm, move a page only when the move pays."""

__version__ = "0.1.0"
