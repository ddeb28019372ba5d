"""Comparisons: instances × solvers × seeds × limits, one judge, one file of results."""
