"""Experiments: simulate, compare, report."""
