"""The rows of the claims, evaluated once per session for all tests that use them."""

from functools import cache

from verification.claim import Context, collect
from verification.claims import CLAIMS as LISTED

CLAIMS = {claim.id: claim for claim in LISTED}


@cache
def rows_of(name, device="cpu"):
    """The rows of a quick run of a claim."""
    return tuple(collect(CLAIMS[name], Context(name, device=device)))
