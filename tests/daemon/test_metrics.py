"""Figures of a running daemon, read by a real Prometheus."""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from isotherm.core.units import PAGE_BYTES
from isotherm.daemon.metrics import (
    KERNEL,
    Meter,
    kernel_counters,
    movers,
    unmapped_cache,
)
from isotherm.daemon.tenant_members import Found
from isotherm.daemon.tenants import LiveTenants
from isotherm.machine.sim.spec import load_machine
from isotherm.observability.metrics import MetricsServer, registry_of
from isotherm.policy.tenant_file import parse_tenants

pytest.importorskip("prometheus_client")

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv/debian/usr/bin"
NAME = re.compile(r"\b(isotherm_[a-z_]+|process_[a-z_]+)\b")


@pytest.fixture
def metered(playing):
    """Return a service that has run for half a minute, and its meter."""
    played, meter = playing(), Meter()
    played.service.observers.append(meter)
    played.service.run(played.wait, 30.0)
    return played.service, meter


def values(meter: Meter) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every figure by name and labels."""
    return {(f.name, key): v for f in meter.figures() for key, v in f.rows.items()}


@pytest.mark.slow
def test_figures_are_those_of_the_result(metered) -> None:
    """A dashboard and the summary at the end say the same."""
    service, meter = metered
    found, result = values(meter), service.result()
    assert result["promoted_pages"] == found["moved_pages", ("promotion",)] > 0
    assert result["demoted_pages"] == found["moved_pages", ("demotion",)]
    assert result["promised_ns"] / 1e9 == found["gain_seconds", ("promised",)]
    assert result["realised_ns"] / 1e9 == found["gain_seconds", ("realised",)]
    assert result["fast_share"] == found["fast_share_ratio", ()]
    assert result["epochs"] == found["epochs", ()]
    assert result["managed_pages"] * PAGE_BYTES == sum(
        value for (name, _), value in found.items() if name == "node_managed_bytes"
    )
    assert found["slot_price_seconds", ("0",)] >= 0
    assert found["hint_observations", ("accessed-bit",)] > 0
    assert found["brake_share_ratio", ()] == 1


def test_before_the_first_epoch_there_are_the_kernels() -> None:
    """A scrape that comes early is no error."""
    names = {family.name for family in Meter().figures()}
    assert {"kernel_events", "mover_pages", "unmapped_cache_bytes"} == names


def test_page_cache_that_nobody_maps_is_told(tmp_path: Path) -> None:
    """It is left alone, so its size is a figure; none where the kernel says nothing."""
    assert [] == list(unmapped_cache(tmp_path))
    (tmp_path / "proc").mkdir()
    text = "Cached:  900 kB\nMapped:  200 kB\n"
    (tmp_path / "proc/meminfo").write_text(text)
    (family,) = unmapped_cache(tmp_path)
    assert {(): 700 << 10} == dict(family.rows)


def test_kernel_counters_say_whose_moves_they_count(tmp_path: Path) -> None:
    """Only those that are there, as the kernel writes them."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 7\npgmigrate_success 5\npgpromote_success 2\n")
    (family,) = kernel_counters(vmstat)
    assert {
        ("pgmigrate_success", "everybody"): 5,
        ("pgpromote_success", "kernel"): 2,
    } == family.rows
    assert [] == list(kernel_counters(tmp_path / "missing"))
    assert {"everybody", "kernel"} == set(KERNEL.values())


def offered(meter: Meter) -> set[str]:
    """Return the names that a scrape shows."""
    return {
        sample.name
        for metric in registry_of(meter.figures).collect()
        for sample in metric.samples
    } | {"isotherm_move_failures_total", "isotherm_brake_shifts_total"}  # none yet


@pytest.mark.slow
def test_dashboard_and_alerts_ask_for_what_there_is(playing) -> None:
    """No panel and no alert names a figure that no daemon has."""
    _, meter = tenanted(playing)
    text = (ROOT / "deploy/prometheus/isotherm.yml").read_text()
    asked = NAME.findall(
        "\n".join(re.findall(r"expr: (?:>-\n)?(.*?)\n +for:", text, re.DOTALL))
    )
    dashboard = json.loads((ROOT / "deploy/grafana/isotherm.json").read_text())
    queries = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    assert queries
    asked += NAME.findall("\n".join(queries))
    assert set() == set(asked) - offered(meter)


def test_dashboard_is_as_built() -> None:
    """The committed file is what the script writes."""
    script = ROOT / "deploy/grafana/build.py"
    built = subprocess.run(
        ["python3", script], check=True, capture_output=True, text=True
    )
    assert built.stdout == (ROOT / "deploy/grafana/isotherm.json").read_text()


def program(name: str) -> Path:
    """Return where a program of Prometheus is; skip where it is not."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    if found is None:
        pytest.skip(f"{name} is missing: .ci/system-packages unpacks Debian's")
    return Path(found)


def test_alerts_are_rules() -> None:
    """As promtool reads them."""
    rules = ROOT / "deploy/prometheus/isotherm.yml"
    done = subprocess.run(
        [program("promtool"), "check", "rules", rules],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "10 rules found" in done.stdout


@pytest.mark.slow
def test_prometheus_scrapes_a_daemon(metered, tmp_path: Path) -> None:
    """A real one stores what the daemon says, and answers queries about it."""
    service, meter = metered
    log = tmp_path / "log"
    with MetricsServer("127.0.0.1:0", meter.figures) as server:
        host, port = server.address
        config = tmp_path / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: ['{ROOT}/deploy/prometheus/isotherm.yml']\n"
            "scrape_configs:\n"
            "  - job_name: isotherm\n"
            f"    static_configs: [{{targets: ['{host}:{port}']}}]\n"
        )
        with MetricsServer("127.0.0.1:0", tuple) as free:
            address = "{}:{}".format(*free.address)
        with (
            log.open("wb") as out,
            subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={tmp_path / 'data'}",
                    f"--web.listen-address={address}",
                ],
                stdout=out,
                stderr=out,
            ) as running,
        ):
            try:
                up = query(address, 'up{job="isotherm"} == 1', running, log)
                moved = query(address, "sum(isotherm_moved_pages_total)", running, log)
                rules = fetch(f"http://{address}/api/v1/rules")
            finally:
                running.terminate()
    assert "1" == up
    tally = service.tally
    assert tally.promoted_pages + tally.demoted_pages == float(moved)
    states = [r["health"] for g in rules["data"]["groups"] for r in g["rules"]]
    assert 10 == len(states)
    assert "err" not in states


def query(
    address: str, text: str, running: "subprocess.Popen[bytes]", log: Path
) -> str:
    """Ask until there is an answer; return its value."""
    url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": text})
    for _ in range(1200):
        assert running.poll() is None, log.read_text()
        try:
            found = fetch(url)["data"]["result"]
        except (urllib.error.URLError, ConnectionError):
            found = []
        if found:
            return found[0]["value"][1]
        time.sleep(0.1)
    pytest.fail(f"no answer to {text}: {log.read_text()}")


def fetch(url: str) -> dict:
    """Return a JSON document."""
    with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310  # ours
        return json.load(page)


def tenanted(playing):
    """Return a meter of a run with tenants and pods: all that can be offered."""
    topology = load_machine("dram-cxl").topology([1000, 4000])
    held = parse_tenants('[[tenant]]\nname = "db"\nworkload = "db"\n', "t")
    tenants = LiveTenants(Found(held, (None,)), topology, 1000 * PAGE_BYTES)
    played = playing(tenants=tenants)
    meter = Meter(pods=lambda: {"terms": 1, "rest": 2})
    played.service.observers.append(meter)
    played.service.run(played.wait, 5.0)
    return played.service, meter


@pytest.mark.slow
def test_the_page_has_every_figure(playing) -> None:
    """What is documented is what a scrape can show, names and labels; no more."""
    _, meter = tenanted(playing)
    text = (ROOT / "docs/reference/metrics.md").read_text()
    documented: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.startswith("| `"):
            continue
        names, labels, *_ = (part.strip() for part in line.strip("|").split(" | "))
        for name in re.findall(r"`([a-z_]+)`", names):
            of_tenant = name.startswith("tenant_")
            found = set(re.findall(r"`([a-z_]+)`", labels))
            documented[name] = found | ({"tenant"} if of_tenant else set())
    offered = {
        f.name + ("_total" if f.kind == "counter" else ""): set(f.labels)
        for f in meter.figures()
    }
    assert offered == documented


@pytest.mark.slow
def test_tenants_figures_are_those_of_their_report(playing) -> None:
    """What a tenant holds, meets and pays is said the same way everywhere."""
    service, meter = tenanted(playing)
    found = values(meter)
    (rest,) = [r for r in service.tenants.report() if r["name"] == "(rest)"]
    key = ("(rest)",)
    assert rest["fast_bytes"] == found["tenant_fast_bytes", key] > 0
    assert rest["slowdown"] == found["tenant_slowdown_ratio", key] >= 1
    assert rest["fast_share"] == found["tenant_fast_share_ratio", key]
    assert rest["paid_moves"] * PAGE_BYTES == found["tenant_charged_bytes", key] > 0
    moved = service.tally.promoted_pages
    assert moved == found["tenant_moved_pages", ("(rest)", "promotion")]
    assert 1.0 == found["tenant_info", ("db", "default")]
    assert 2.0 == found["pods", ("rest",)]


@pytest.mark.slow
def test_what_tiers_serve_and_exchange_adds_up(metered) -> None:
    """Shares of accesses are of one whole; crossings are the moves."""
    service, meter = metered
    found = values(meter)
    shares = [v for (name, _), v in found.items() if name == "tier_access_share_ratio"]
    assert 2 == len(shares)
    assert 1.0 == pytest.approx(sum(shares))
    assert service.fast_share == pytest.approx(shares[0])
    tally = service.tally
    assert tally.promoted_pages == found["tier_moved_pages", ("1", "0")]
    assert tally.demoted_pages == found["tier_moved_pages", ("0", "1")]


def test_no_page_has_two_movers(tmp_path: Path) -> None:
    """The kernel's own promotions and demotions, without what it moved for others."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text(
        "pgmigrate_success 100\npgpromote_success 5\npgpromote_candidate 9\n"
        "pgdemote_kswapd 2\npgdemote_direct 3\npgdemote_proactive 4\n"
    )
    (family,) = movers(vmstat, {"promotion": 7, "demotion": 8})
    assert {
        ("isotherm", "promotion"): 7,
        ("isotherm", "demotion"): 8,
        ("kernel", "promotion"): 5,
        ("kernel", "demotion"): 9,
    } == family.rows
    assert [] == list(movers(tmp_path / "missing", {}))
