"""What a run says at its end: raw units for ``--json``, words for people."""

import errno
from collections.abc import Mapping
from typing import Any, Final

from isotherm.core.units import PAGE_BYTES, render_bytes

#: Why a page did not move, by errno (move_pages(2), host and guest tests).
CLASSES: Final[Mapping[int, str]] = {
    errno.EBUSY: "busy or pinned",
    errno.ENOMEM: "no room on the node",
    errno.EACCES: "shared with another process",
    errno.EFAULT: "not mapped, or the zero page",
    errno.ENOENT: "no memory behind it",
    errno.EPERM: "not permitted, or outside its cpuset",
    errno.ENODEV: "node is gone",
    errno.EINVAL: "not allowed by its memory policy",
    errno.ESRCH: "process is gone",
    133: "poisoned",  # EHWPOISON, which Python does not name everywhere
    errno.EIO: "not written back",
}


def failures(by_errno: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return failed tries, most first: errno, its name, class in words, pages."""
    return [
        {
            "errno": number,
            "name": errno.errorcode.get(number, str(number)),
            "class": CLASSES.get(number, "unknown"),
            "pages": pages,
        }
        for number, pages in sorted(by_errno.items(), key=lambda item: -item[1])
    ]


def describe(result: Mapping[str, Any]) -> list[str]:
    """Return the lines that people read at the end of a run."""
    if "duration_s" not in result:
        lines = ["the command had ended before its memory was looked at"]
    else:
        lines = _kernel(result) if result["mover"] == "kernel" else _own(result)
    return lines + [f"restored: {line}" for line in result["restored"]]


def _kernel(result: Mapping[str, Any]) -> list[str]:
    """Return what the kernel's movers did."""
    lines = [f"{result['duration_s']:.1f} s, the kernel moves: {result['way']}"]
    lines += [
        f"would write {what['path']}: {what['now']} -> {what['new']}"
        for what in result["would_write"]
    ]
    up, down = result["promoted_pages"], result["demoted_pages"]
    lines.append(f"promoted {up} pages, demoted {down}, on the whole host")
    lines += [
        f"{scheme['action']}: {render_bytes(scheme['applied_bytes'])} applied of"
        f" {render_bytes(scheme['tried_bytes'])} tried"
        for scheme in result["schemes"]
    ]
    return lines


def _own(result: Mapping[str, Any]) -> list[str]:
    """Return what isotherm did."""
    managed = render_bytes(result["managed_pages"] * PAGE_BYTES)
    lines = [
        f"{result['duration_s']:.1f} s, {result['epochs']} epochs, {managed} managed"
    ]
    word = "would have moved" if result["dry_run"] else "moved"
    lines.append(
        f"{word} {render_bytes(result['moved_bytes'])}:"
        f" {result['promoted_pages']} pages up, {result['demoted_pages']} down"
    )
    lines += [_planned(what) for what in result.get("planned", ())]
    lines += [
        f"failed: {failed['pages']} tries {failed['name']}, {failed['class']}"
        for failed in result["failed"]
    ]
    lines += [
        f"{source['name']}: {source['frames']['said']}"
        for source in result.get("sources", ())
        if source.get("frames", {}).get("asked")
    ]
    lines += _not_managed(result)
    share = result["fast_share"]
    if share is not None:
        first = result["fast_share_at_start"]
        began = "" if first is None else f", {first:.0%} at the start"
        lines.append(f"about {share:.0%} of accesses in fast memory{began}")
    lines += _sizes(result.get("huge_pages"))
    lines += _advised(result.get("cpu_advice"))
    lines += [_tenant(row) for row in result.get("tenants", ())]
    costs = result["costs"]
    lines.append(
        f"took {costs['cpu_share']:.2%} of a core, {costs['application_s']:.3f} s"
        f" of the target's time; epochs of {costs['epoch_s']:g} s at the end"
    )
    if result["brake"]:
        lines.append(f"the brake acted {len(result['brake'])} times")
    return lines


def _sizes(found: Mapping[str, Any] | None) -> list[str]:
    """Return what came of page sizes, where they were asked for."""
    if found is None:
        return []
    failed = sum(found["failed"].values())
    return [
        f"huge pages: {found['huge_ranges']} at the end, {found['collapses']}"
        f" collapsed, {found['splits']} split"
        + (f", {failed} failed" if failed else "")
    ]


def _advised(found: Mapping[str, Any] | None) -> list[str]:
    """Return where threads had better run, or were made to: the last advice."""
    if found is None:
        return []
    if not found["advice"]:
        return [f"CPUs: {found['evidence']} may stay where they are"]
    last = found["advice"][-1]
    word = "now runs" if found["applied"] else "had better run"
    return [
        f"CPUs: {row['kind']} {row['id']} {word} on initiator {row['to']}, not"
        f" {row['from']}"
        for row in last["threads"]
    ] + [f"CPUs: that saves {last['gain']:.0%} of what accesses wait for"]


def _tenant(row: Mapping[str, Any]) -> str:
    """Return what a tenant held at the end, and what it paid for."""
    share = "" if row["fast_share"] is None else f", {row['fast_share']:.0%} fast"
    return (
        f"tenant {row['name']}: {render_bytes(row['fast_bytes'])} of"
        f" {render_bytes(row['bytes'])} in fast memory{share},"
        f" paid {row['paid_moves']} moves, {row['cpu_ns'] / 1e9:.2f} s of CPU"
    )


def _not_managed(result: Mapping[str, Any]) -> list[str]:
    """Return what is left alone of what shares its pages with others."""
    lines = []
    left = result.get("left_out_pages") or {}
    for kind, key in (("shmem", "shared"), ("file", "files")):
        if left.get(kind):
            size = render_bytes(left[kind] * PAGE_BYTES)
            lines.append(f"left alone: {size} {kind} (memory.{key} = true manages it)")
    if cache := result.get("unmapped_cache_bytes"):
        lines.append(
            f"left alone: {render_bytes(cache)} of page cache that nobody maps"
        )
    return lines


def _planned(what: Mapping[str, Any]) -> str:
    """Return one range that a dry run would move, within 80 columns."""
    rate = "" if what["rate"] is None else f"  hot {what['rate']:.1f}/page/s"
    return (
        f"{what['direction']:<7}  {what['start']:x}  {render_bytes(what['bytes'])}"
        f"  node{what['from_node']} -> node{what['to_node']}{rate}"
        f"  saves {what['gain_ns'] / 1e6:.1f} ms"
    )
