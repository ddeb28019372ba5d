"""Problem -> models: linear arrays, MILP, LP over shares, CP-SAT."""
