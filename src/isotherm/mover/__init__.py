"""The privileged half of a run: it does what a session without rights asks for.

It believes nothing that it is told: every request is held against what the command
line named. It reads no configuration, no topology and no evidence, and imports the
thin modules of system calls alone (an import contract keeps it so).
"""
