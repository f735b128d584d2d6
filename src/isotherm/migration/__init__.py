"""From a plan to moved pages: a state machine without I/O, and an executor with it."""
