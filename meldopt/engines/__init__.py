"""Thin adapters of optimisation engines: run, bound, incumbent, stop."""
