"""The file of tenants: profiles, amounts, and what is said of a mistake."""

from dataclasses import replace

import pytest

from isotherm.core.errors import ConfigError, UsageError
from isotherm.machine.protocol import Space
from isotherm.machine.sim.spec import load_machine
from isotherm.policy.tenant_file import PROFILES, parse_tenants
from isotherm.policy.tenants import Amount, Labeller, first_tier, last_tier, node_mask
from isotherm.topology.model import MemoryKind

TWO = """
[[tenant]]
name = "db"
profile = "latency-critical"
guarantee = "60%"
cgroup = "a.slice/db"

[[tenant]]
name = "scan"
maximum = "512MiB"
pids = 42
workload = "sweep"
"""


def test_a_file_is_read() -> None:
    """Amounts, profile and members are what the file says, the rest defaults."""
    file = parse_tenants(TWO, "t.toml")
    db, scan = file.tenancy.tenants
    assert ("db", "scan", "(rest)") == file.tenancy.names
    assert Amount(share=0.6) == db.guarantee
    assert (4.0, 0.01) == (db.weight, db.lend)
    assert Amount(size_bytes=512 << 20) == scan.maximum
    assert Amount(share=0.0) == scan.guarantee
    assert "price" == file.tenancy.sharing
    assert ("a.slice/db", (42,)) == (file.members[0].cgroup, file.members[1].pids)
    assert [2, 1, 1] == [file.label(part) for part in ("db", "sweep", "sweep.x")]


def test_profiles_stand_on_each_other() -> None:
    """What a tenant says goes before its profile, that before what it stands on."""
    text = """
    [profile.quiet]
    base = "batch"
    move_share = 0.1
    weight = 2.0
    [[tenant]]
    name = "a"
    profile = "quiet"
    weight = 3.0
    workload = ["a"]
    """
    tenant = parse_tenants(text, "t").tenancy.tenants[0]
    assert (3.0, 0.1) == (tenant.weight, tenant.move_share)
    assert PROFILES["batch"].lend == tenant.lend


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('"60%"', '"160%"', "t.toml: tenant[0].guarantee: expected a share of the fa"),
        ('"60%"', "60", "t.toml: tenant[0].guarantee: expected `str`, got `int`"),
        ('"512MiB"', '"lots"', "tenant[1].maximum: expected a share of the fastest"),
        ("latency-critical", "latency", "no profile is called 'latency'; did you mean"),
        ('name = "scan"', 'name = "db"', "tenant[1].name: two tenants are called 'db'"),
        ("maximum", "maxmum", "unknown field `maxmum`; did you mean 'maximum'"),
        ("pids = 42", "pids = 0", "tenant[1].pids[0]: expected `int` >= 1"),
        ('name = "scan"', 'name = " "', "tenant[1].name: expected a name, got ' '"),
        ('pids = 42\nworkload = "sweep"', "", "tenant[1] (scan): expected a cgroup, p"),
        ("pids = 42", 'cgroup = "a.slice"', "a.slice and a.slice/db of 'db' hold the"),
        ('[[tenant]]\nname = "db"', 'sharing = "prize"\n[[tenant]]\nname = "db"',
         "sharing: expected price, partition, none, got 'prize'; did you mean 'price'"),
        ('guarantee = "60%"', 'keep_out = ["clx"]', "keep_out: expected kinds of memo"),
        ('guarantee = "60%"', "weight = 0", "tenant[0].weight: expected `float` > 0"),
        ("[[tenant]]", "[[tenant]", "t.toml: expected TOML: "),
    ],
)  # fmt: skip
def test_a_mistake_is_named(was: str, now: str, said: str) -> None:
    """One message: the file, the field, what was found and what was expected."""
    with pytest.raises(ConfigError) as found:
        parse_tenants(TWO.replace(was, now, 1), "t.toml")
    assert said in found.value.message


def test_profiles_in_a_circle() -> None:
    """Profiles that stand on each other are refused with the way round."""
    text = """
    [profile.a]
    base = "b"
    [profile.b]
    base = "a"
    [[tenant]]
    name = "x"
    profile = "a"
    pids = 1
    """
    with pytest.raises(ConfigError, match="a -> b -> a"):
        parse_tenants(text, "t")


def test_guarantees_must_fit() -> None:
    """Guarantees above the tier, or above their tenant's maximum, are refused."""
    both = parse_tenants(TWO.replace('maximum = "512MiB"', 'guarantee = "0.5GiB"'), "t")
    with pytest.raises(UsageError, match=r"db 60%, scan 536870912B.*has 1024.0 MiB"):
        both.tenancy.check_capacity(1 << 30, "t")
    text = TWO.replace('guarantee = "60%"', 'guarantee = "60%"\nmaximum = "1MiB"')
    with pytest.raises(UsageError, match=r"above its maximum of 1\.0 MiB"):
        parse_tenants(text, "t").tenancy.check_capacity(1 << 30, "t")
    text = TWO.replace('guarantee = "60%"', 'guarantee = "2GiB"')
    with pytest.raises(UsageError, match=r"2048\.0 MiB is more than the fastest tier"):
        parse_tenants(text, "t").tenancy.check_capacity(1 << 30, "t")
    parse_tenants(TWO, "t").tenancy.check_capacity(1 << 30, "t")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        (
            'guarantee = "60%"',
            'guarantee = "60%"\nmaximum = "20%"',
            "t: tenant[0].guarantee: 60% is above its maximum of 20%",
        ),
        (
            'maximum = "512MiB"',
            'guarantee = "2GiB"\nmaximum = "1GiB"',
            "t: tenant[1].guarantee: 2147483648B is above its maximum of 1073741824B",
        ),
        (
            'maximum = "512MiB"',
            'guarantee = "50%"',
            "t: the guarantees are 110% of the fastest tier (db 60%, scan 50%)",
        ),
    ],
)
def test_what_no_tier_can_keep_needs_no_host(was: str, now: str, said: str) -> None:
    """Amounts of one kind are compared where the file is read."""
    with pytest.raises(ConfigError) as found:
        parse_tenants(TWO.replace(was, now, 1), "t")
    assert said == found.value.message


def test_shares_may_be_all_of_the_tier() -> None:
    """The last digit of a sum of floats refuses nobody."""
    entry = '[[tenant]]\nname = "{0}"\npids = {0}\nguarantee = "{1}"\nmaximum = "{1}"\n'
    for shares in (["10%"] * 10, ["33.4%", "33.3%", "33.3%"], ["100%"]):
        text = "".join(entry.format(n, share) for n, share in enumerate(shares, 1))
        assert len(shares) == len(parse_tenants(text, "t").tenancy.tenants)


def test_amounts_in_pages() -> None:
    """Shares are of the tier, sizes of bytes, all of what the tenant has and fits."""
    assert 300 == Amount(share=0.3).pages(1000, 77, 4096)
    assert 2 == Amount(size_bytes=10_000).pages(1000, 77, 4096)
    assert 77 == Amount(everything=True).pages(1000, 77, 4096)
    assert 1000 == Amount(everything=True).pages(1000, 7700, 4096)


def test_tiers_that_are_left() -> None:
    """Kinds kept out and nodes of a cpuset leave some tiers to a tenant."""
    topology = load_machine("hbm-dram-cxl").topology([10, 10, 10])
    text = '[[tenant]]\nname = "a"\nprofile = "keep-out-of-cxl"\npids = 1\n'
    tenant = parse_tenants(text, "t").tenancy.tenants[0]
    assert frozenset({MemoryKind.CXL}) == tenant.keep_out
    assert (0, 1) == (first_tier(tenant, topology), last_tier(tenant, topology))
    bound = replace(tenant, nodes=frozenset({2}))
    assert [False, False, True] == node_mask([bound])[0, :3].tolist()
    with pytest.raises(UsageError, match="'a': no tier is left to it"):
        last_tier(bound, topology)
    assert 3 == first_tier(bound, topology)


def test_labels_follow_spaces() -> None:
    """Every page has its space's label, those of nobody the rest's; kept till then."""
    spaces = (Space(0, 4, "pid 1 x"), Space(8, 2, "pid 2 y"))
    version = [0]
    labeller = Labeller(lambda s: 0 if "1" in s.owner else 1, 2, lambda: version[0])
    label = labeller.of(spaces, 12)
    assert [0, 0, 0, 0, 2, 2, 2, 2, 1, 1, 2, 2] == label.tolist()
    assert labeller.of(spaces, 12) is label
    version[0] += 1
    assert labeller.of(spaces, 12) is not label
