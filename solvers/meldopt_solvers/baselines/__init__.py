"""Published methods, re-implemented from their papers and judged as all solvers are."""
