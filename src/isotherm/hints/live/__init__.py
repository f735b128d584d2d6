"""Hint sources of a live Linux host: one mechanism a file."""
