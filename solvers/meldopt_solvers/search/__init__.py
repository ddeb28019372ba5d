"""Heuristics that build and improve plans, without a proof."""
