"""Screens: ``isotherm top`` in a terminal, ``isotherm serve`` in a browser."""
