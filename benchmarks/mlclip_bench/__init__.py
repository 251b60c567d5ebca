"""Measure, store raw, derive, draw: studies whose raw results lie in `benchmarks/results`."""
