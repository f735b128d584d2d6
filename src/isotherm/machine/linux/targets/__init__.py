"""Whose memory is managed: processes by pid or cgroup, with their descendants."""
