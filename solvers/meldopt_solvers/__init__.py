"""Solvers of meldopt, each registered by an entry point of `meldopt.solvers`."""
