"""Traces: which experts the tokens of real or drawn requests called, and when.

A trace is a table of requests and, token after token, the experts of each MoE layer
with their gates. It streams: tokens come in chunks, are checked as they come, and never
have to be held all at once.
"""

from __future__ import annotations

from .records import ANY_HOME as ANY_HOME
from .records import Chunk as Chunk
from .records import Requests as Requests
from .records import TraceHeader as TraceHeader
from .stream import Trace as Trace
from .stream import merge_traces as merge_traces
from .stream import read_trace as read_trace
from .stream import slice_trace as slice_trace
from .stream import write_trace as write_trace
