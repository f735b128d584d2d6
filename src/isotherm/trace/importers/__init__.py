"""Readers of other tools' trace formats, one family a file."""
