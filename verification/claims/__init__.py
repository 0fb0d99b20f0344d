"""All claims, in reading order. A new one is a file here and a line in this list."""

from verification.claim import Claim
from verification.claims import (
    t01,
    t02,
    t08,
    t09,
    t11,
    t12,
    t13,
    t13_readings,
    t17,
    t18,
    t25,
    t26,
    t27,
    w03,
)

PARTS = (t01, t02, t08, t09, t11, t12, t13, t13_readings, t17, t18, t25, t26, t27, w03)

CLAIMS: list[Claim] = [claim for part in PARTS for claim in part.CLAIMS]
