"""Bounds from prices: every row that couples experts is relaxed at a price."""
