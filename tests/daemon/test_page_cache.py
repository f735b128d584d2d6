"""Page cache that no process maps is told, since nothing moves it."""

from pathlib import Path

from isotherm.daemon.doctor.actuators import find_actuators
from isotherm.daemon.doctor.kernel import read_kernel
from isotherm.daemon.page_cache import read_unmapped_bytes
from isotherm.daemon.summary import _not_managed


def test_the_hosts(tmp_path: Path) -> None:
    """What is cached, less what is mapped; nothing where nobody says."""
    assert read_unmapped_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    meminfo = tmp_path / "proc/meminfo"
    meminfo.write_text("Cached:  1000 kB\nMapped:   300 kB\nSwapCached: 5 kB\n")
    assert 700 << 10 == read_unmapped_bytes(tmp_path)
    meminfo.write_text("Cached:  100 kB\nMapped:   300 kB\n")
    assert 0 == read_unmapped_bytes(tmp_path)
    meminfo.write_text("Cached:  100 kB\n")
    assert read_unmapped_bytes(tmp_path) is None


def test_a_cgroups(tmp_path: Path) -> None:
    """Its memory.stat has both in bytes."""
    (tmp_path / "memory.stat").write_text("anon 1\nfile 9000\nfile_mapped 1000\n")
    assert 8000 == read_unmapped_bytes(tmp_path / "nowhere", tmp_path)


def test_doctor_says_so(tmp_path: Path) -> None:
    """As a way to move memory that is not there, with what is there instead."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("Cached: 4096 kB\nMapped: 0 kB\n")
    demotion = tmp_path / "sys/kernel/mm/numa/demotion_enabled"
    demotion.parent.mkdir(parents=True)
    demotion.write_text("false\n")
    facts = find_actuators(read_kernel(tmp_path), tmp_path)
    (fact,) = [fact for fact in facts if fact.name == "unmapped-page-cache"]
    assert not fact.present
    assert "4.00 MiB of page cache that nobody maps" in fact.why
    assert "echo 1 > /sys/kernel/mm/numa/demotion_enabled" == fact.command


def test_a_run_says_what_it_left_alone() -> None:
    """Shared memory and files with the setting that has them managed."""
    lines = _not_managed(
        {"left_out_pages": {"shmem": 256, "file": 512}, "unmapped_cache_bytes": 1 << 20}
    )
    assert [
        "left alone: 1.00 MiB shmem (memory.shared = true manages it)",
        "left alone: 2.00 MiB file (memory.files = true manages it)",
        "left alone: 1.00 MiB of page cache that nobody maps",
    ] == lines
    assert [] == _not_managed({"left_out_pages": {}, "unmapped_cache_bytes": None})
