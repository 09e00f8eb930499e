"""How long to pause before another try."""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, wait_random_exponential

backoff = wait_random_exponential(multiplier=0.05, max=0.5)


def jitter(attempts: int) -> float:
    """Seconds to pause after so many attempts, where tenacity does not drive them."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempts
    return backoff(state)


def halfway(attempts: int) -> float:
    """What `jitter` gives on average."""
    return float(min(backoff.max, backoff.multiplier * 2 ** min(attempts - 1, 30))) / 2
