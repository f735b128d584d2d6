"""Tests of pods: they share the names that groups go by."""
