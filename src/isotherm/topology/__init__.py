"""Topology: nodes, tiers, initiators, performance, each figure with its source."""
