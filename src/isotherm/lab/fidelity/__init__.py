"""The fidelity suite: published results, played again in the simulator.

An experiment is a module with a function ``play`` and a file of what was published
(``published/NAME.toml``): figures with their source, which of them the model was
calibrated on, what it claims, and why it misses where it does. ``runner`` plays them
and compares; errors are told of figures that nobody calibrated on.
"""
