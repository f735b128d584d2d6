"""Pods of a Kubernetes node: where their processes are, and on what terms they run.

The kernel knows pods as control groups (``cgroups``), the API server knows what their
annotations say (``api``). A watcher without any rights on the host asks the one and
writes a small file (``book``); the daemon, which has those rights and no network,
reads it, works out terms (``terms``) and renews its tenants (``roster``).
"""
