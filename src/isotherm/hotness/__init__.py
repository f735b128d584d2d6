"""The hot-memory abstraction: evidence in, access rates out."""
