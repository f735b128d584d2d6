"""What a market thinks of its tenants, for those who ask."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isotherm.policy.tenant_prices import TenantPrices
from isotherm.policy.tenant_shares import Shares

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TenantState:
    """What the policy thinks of a tenant, as of the last decision.

    Attributes:
        name: Its name.
        pages: Pages in a tier.
        fast_pages: Of them in the fastest.
        guarantee_pages: Slots guaranteed, as far as it has pages for them.
        owed_pages: Of them used: nobody may buy them.
        cap_pages: Slots at most.
        price_ns: What a fast slot costs it for an epoch.
        pool: "common", "owed" or "capped": whom that price is settled with.
        fast_share: Share of its accesses that its fast pages get.
        slowdown: Its memory time over that with all of its memory fast.
        headroom_pages: Fast slots kept free for what it allocates.
    """

    name: str
    pages: int
    fast_pages: int
    guarantee_pages: int
    owed_pages: int
    cap_pages: int
    price_ns: float
    pool: str
    fast_share: float
    slowdown: float
    headroom_pages: int = 0

    @property
    def borrowed_pages(self) -> int:
        """Fast pages beyond the guarantee."""
        return max(0, self.fast_pages - self.guarantee_pages)

    @property
    def lent_pages(self) -> int:
        """Guaranteed slots that others may use now, as it has pages for them."""
        return max(0, self.guarantee_pages - self.fast_pages)


def describe(
    names: tuple[str, ...],
    by_tier: Ints,
    rate: Floats,
    shares: Shares,
    prices: TenantPrices,
    tier_ns: Floats,
    headroom: Ints,
) -> tuple[TenantState, ...]:
    """Return what is thought of each tenant, the rest last.

    Args:
        names: Of all.
        by_tier: Pages by tenant, cell and tier, int64[T, CELLS, tiers].
        rate: Of every cell.
        shares: Of the fastest tier.
        prices: Of the first boundary.
        tier_ns: What one more access takes in each tier.
        headroom: Slots kept free for each, int64[T].
    """
    work = (by_tier * rate[:, None]).sum(1)
    pages = by_tier.sum(1)
    total = np.maximum(work.sum(1), 1e-12)
    return tuple(
        TenantState(
            name=name,
            pages=int(pages[t].sum()),
            fast_pages=int(pages[t, 0]),
            guarantee_pages=int(shares.entitled[t]),
            owed_pages=int(shares.owed[t]),
            cap_pages=int(shares.cap[t]),
            price_ns=float(prices.own[t]),
            pool=("common", "owed", "capped")[int(shares.pool[t])],
            fast_share=float(work[t, 0] / total[t]),
            slowdown=float(
                work[t] @ tier_ns / max(float(total[t] * tier_ns[0]), 1e-12)
            ),
            headroom_pages=int(headroom[t]),
        )
        for t, name in enumerate(names)
    )
