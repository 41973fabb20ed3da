"""Engram beside other libraries, each `python -m examples.NAME` from the root of a checkout."""
