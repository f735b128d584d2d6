"""Workloads with the truth in them: real memory, touched as a generator says.

A process maps a buffer, reads and writes its cache lines as one of the
generators draws them, and counts every access per page in a shared file. Joined
with where the kernel has put each page, that says exactly which share of the
accesses each node serves.
"""
