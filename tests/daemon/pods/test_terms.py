"""Annotations: terms of a tenant, or one sentence that says what is wrong."""

import pytest

from isotherm.daemon.pods.book import Pod
from isotherm.daemon.pods.terms import FIELDS, read_terms
from isotherm.policy.tenant_file import PROFILES
from isotherm.policy.tenants import Amount
from isotherm.topology.model import MemoryKind


def said(most_weight: float = 1000.0, **annotations: str):
    """Return what is made of annotations; underscores are dashes."""
    named = {
        f"isotherm.io/{name.replace('_', '-')}": text
        for name, text in annotations.items()
    }
    other = {"kubernetes.io/x": "y"}
    pod = Pod(uid="0", namespace="shop", name="db-0", annotations={**named, **other})
    return read_terms(pod, most_weight)


def test_nothing_is_said() -> None:
    """Annotations of others are none of ours: the pod belongs to the rest."""
    found = said()
    assert (True, None, None) == (found.managed, found.tenant, found.wrong)


def test_every_field_can_be_said() -> None:
    """And the tenant has it, under the pod's full name."""
    tenant = said(
        profile="batch",
        fast_min="2GiB",
        fast_max="50%",
        weight="3",
        lend="0.2",
        move_share=" 0.1 ",
        keep_out="cxl, pmem",
    ).tenant
    assert "shop/db-0" == tenant.name
    assert (Amount(size_bytes=2 << 30), Amount(share=0.5)) == (
        tenant.guarantee,
        tenant.maximum,
    )
    assert (3.0, 0.2, 0.1) == (tenant.weight, tenant.lend, tenant.move_share)
    assert {MemoryKind.CXL, MemoryKind("pmem")} == tenant.keep_out


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_that_ships_can_be_said(profile: str) -> None:
    """What the profile says of the weight, the tenant has."""
    tenant = said(profile=profile).tenant
    weight = PROFILES[profile].weight
    assert profile == tenant.profile
    assert tenant.weight == (weight or PROFILES["default"].weight)


WRONG = [
    ({"profile": "critical"}, "profile: no profile is called 'critical'"),
    ({"profile": "latency-critial"}, "did you mean 'latency-critical'?"),
    ({"weight": "heavy"}, "weight: expected a number above 0 to 1000, got 'heavy'"),
    ({"weight": "0"}, "weight: expected a number above 0 to 1000, got '0'"),
    ({"weight": "nan"}, "weight: expected a number above 0 to 1000, got 'nan'"),
    ({"weight": "inf"}, "weight: expected a number above 0 to 1000, got 'inf'"),
    ({"lend": "2"}, "lend: expected a number from 0 to 1, got '2'"),
    ({"move_share": "0"}, "move-share: expected a number above 0 to 1, got '0'"),
    ({"fast_min": "much"}, "fast-min: expected a share of the fastest tier (40%)"),
    ({"fast_min": "all"}, "fast-min: expected a share of the fastest tier (40%)"),
    ({"fast_max": "101%"}, "fast-max: expected a share of the fastest tier (40%)"),
    ({"keep_out": "clx"}, "got 'clx'; did you mean 'cxl'?"),
    ({"fast-minimum": "1GiB"}, "fast-minimum: no such annotation; did you mean"),
]


@pytest.mark.parametrize(("annotations", "why"), WRONG)
def test_what_is_wrong_is_said_once_and_counts_for_nothing(
    annotations: dict[str, str], why: str
) -> None:
    """Which pod, which annotation, what was expected; the other ones do not count."""
    found = said(**{"fast_max": "10%", **annotations})
    assert found.tenant is None
    assert found.managed
    assert found.wrong.startswith("pod shop/db-0: isotherm.io/")
    assert why in found.wrong


def test_more_than_the_node_allows_is_refused() -> None:
    """A pod cannot make itself worth a thousand others; a profile is no way around."""
    assert said(4.0, weight="4").tenant.weight == 4
    assert (
        "above what this node allows (pods.most_weight = 4)"
        in said(4.0, weight="5").wrong
    )
    assert "pods.most_weight = 2" in said(2.0, profile="latency-critical").wrong


@pytest.mark.parametrize(("text", "wrong"), [("false", False), ("no", True)])
def test_a_pod_is_left_alone(text: str, wrong: bool) -> None:
    """Where it says so, whatever else is wrong, and where nobody knows what it says."""
    found = said(manage=text, weight="heavy")
    assert not found.managed
    assert found.tenant is None
    assert wrong == (found.wrong is not None)


def test_every_annotation_is_a_field_of_a_tenant() -> None:
    """What is documented as a field can be said by annotation."""
    assert {"guarantee", "maximum", "weight", "lend", "move_share", "keep_out"} <= set(
        FIELDS.values()
    )
