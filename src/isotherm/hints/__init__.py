"""Hint drivers: one mechanism a file. Every hint is an observation with an exposure."""
