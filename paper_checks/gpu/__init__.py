"""All that has to be seen on a GPU, in eight minutes: `.ci/gpu`, or python -m paper_checks.gpu.

Four parts, each a process with a time limit, so that one that hangs or fails does not lose the
others; every row is stored as soon as it is measured. docs/performance.md says what they measure.
"""
