"""Access streams: recorded traces, and readers for other tools' formats."""
