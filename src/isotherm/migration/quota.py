"""The quota of moves: a bucket that fills all the time, at a share while braked."""

from typing import Final

from isotherm.core.units import NS_PER_S

#: More pages than there are: no quota.
UNLIMITED: Final = 1 << 62


class Quota:
    """Pages that may be tried, as tokens.

    Args:
        pages_per_s: Tokens a second; None: no quota.
        burst_s: How many seconds of tokens may be saved.
        start_ns: The machine's time; the bucket starts empty.

    Attributes:
        share: Of the quota, in [0, 1]; 0: nothing starts, quota or none.
        now_ns: When the bucket was filled last.
    """

    def __init__(
        self, pages_per_s: float | None, burst_s: float, start_ns: int
    ) -> None:
        if pages_per_s is not None and not pages_per_s >= 0:
            raise ValueError(f"quota_pages_per_s: expected >= 0, got {pages_per_s}")
        self._per_s = pages_per_s
        self._burst_s = burst_s
        self._tokens = 0.0
        self._start_ns = start_ns
        self._given = 0.0  # at rates of before, at most
        self.now_ns = start_ns
        self.share = 1.0

    @property
    def tokens(self) -> float | None:
        """Tokens in the bucket; None without a quota."""
        return None if self._per_s is None else self._tokens

    def _filled(self, now_ns: int) -> float:
        """Return the tokens of the bucket at ``now_ns``."""
        quota = self._per_s or 0.0
        gained = self.share * quota * (now_ns - self.now_ns) / NS_PER_S
        return min(self._tokens + gained, max(self._tokens, quota * self._burst_s))

    def pass_time(self, now_ns: int) -> None:
        """Fill the bucket up to a time."""
        self._tokens = self._filled(now_ns)
        self.now_ns = now_ns

    def change(self, pages_per_s: float) -> None:
        """Fill at another rate from now on; as many pages may be saved as before.

        Raises:
            ValueError: There was no quota, or the rate is not above 0.
        """
        if self._per_s is None or not pages_per_s > 0:
            raise ValueError(f"quota_pages_per_s: expected > 0, got {pages_per_s}")
        self._given += self._per_s * (self.now_ns - self._start_ns) / NS_PER_S
        self._start_ns = self.now_ns
        # What must be together before anything starts still finds room.
        self._burst_s = max(self._burst_s, self._burst_s * self._per_s / pages_per_s)
        self._per_s = pages_per_s

    def throttle(self, share: float) -> None:
        """Fill at a share from now on.

        Raises:
            ValueError: It is outside [0, 1].
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share: expected 0 to 1, got {share}")
        self.share = share

    def allowance_pages(self, now_ns: int) -> int:
        """Return how many pages could go at ``now_ns``."""
        if self.share == 0:
            return 0
        return UNLIMITED if self._per_s is None else int(self._filled(now_ns))

    def allowed(self) -> int:
        """Return how many pages the bucket holds, whatever the share."""
        return UNLIMITED if self._per_s is None else int(self._tokens)

    def take(self, pages: int) -> None:
        """Take the tokens of pages that start."""
        if self._per_s is not None:
            self._tokens -= pages

    def holds(self, tried_pages: int) -> dict[str, bool]:
        """Return the invariants of the bucket, by name.

        Args:
            tried_pages: Tokens taken since the start.
        """
        passed_s = (self.now_ns - self._start_ns) / NS_PER_S
        return {
            "tokens": self._tokens >= 0,
            "quota": self._per_s is None
            or tried_pages <= self._given + self._per_s * passed_s + 1e-6,
        }
