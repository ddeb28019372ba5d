"""Solvers that prove: integer programmes and constraint programming."""
