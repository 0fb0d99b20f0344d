"""All claims, in reading order. A new one is a file here and a line in this list."""

from verification.claim import Claim
from verification.claims import t08, t17

CLAIMS: list[Claim] = [claim for part in (t08, t17) for claim in part.CLAIMS]
