"""Programs that measure speed and print a table, each `python -m benchmarks.NAME` from the root of a checkout."""
