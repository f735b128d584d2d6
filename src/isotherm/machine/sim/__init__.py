"""The simulated machine, and the mechanisms that hint drivers read through it."""
