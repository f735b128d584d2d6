"""What this host offers: sources, actuators, permissions, other movers.

Nothing here changes anything: files are read, and system calls are asked for
things that do nothing (advice about no bytes, the node of one page).
"""
