"""`python -m tests.fuzz MINUTES [DOOR ...]`: draws at each door, and errors it lets through."""

import sys
import traceback

from tests.fuzz.minutes import withstood
from tests.fuzz.test_doors import DOORS, DRAWN

failed = False
for door in sys.argv[2:] or DOORS:
    try:
        print(f"{door}: {withstood(door, float(sys.argv[1]))} draws, none got through", flush=True)
    except Exception:
        failed = True
        traceback.print_exc()
        print(f"{door}: FAILED after {len(DRAWN)} draws", flush=True)
sys.exit(failed)
