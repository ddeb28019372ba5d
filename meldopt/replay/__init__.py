"""Run plans on routing traces."""
