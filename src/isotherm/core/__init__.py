"""Errors, units, clocks and the kernel switch that every other package stands on."""
