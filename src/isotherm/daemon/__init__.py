"""The loop as a service on a live host: targets, pacing, brake, and the way back."""
