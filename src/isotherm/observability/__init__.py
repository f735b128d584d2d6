"""Metrics and events, as snapshots that the layers below hand up."""
