"""A Dask cluster by its address (extra ``cluster``)."""

from __future__ import annotations

import re
from typing import Any

from meldopt.errors import SolverError, SolverUnavailableError

CONNECT_S = 10.0
"""Seconds in which a scheduler has to answer."""

ADDRESS = re.compile(r"(tcp|tls|ws|wss|ucx|ucxx|inproc)://.*[^/:]")
"""What Dask can be asked to connect to. It is matched first: a client of something else
waits until its end of life, and then for a long time."""


def connect(address: str) -> Any:
    """Return a client of a Dask scheduler that has workers.

    Raises
    ------
    SolverUnavailableError
        Without the package `distributed`.
    SolverError
        If it is no address, nothing answers there, or no worker is there.
    """
    if not ADDRESS.fullmatch(address):
        raise SolverError(
            f"cluster: got {address!r}, expected the address of a Dask scheduler, "
            "as in tcp://host:8786"
        )
    try:
        import distributed as untyped
    except ImportError as exc:
        raise SolverUnavailableError(
            "cluster: distributed is not installed: pip install 'meldopt[cluster]'"
        ) from exc
    distributed: Any = untyped
    try:
        client = distributed.Client(
            address, timeout=CONNECT_S, set_as_default=False, name="meldopt"
        )
    except (OSError, TimeoutError, ValueError, TypeError) as exc:
        raise SolverError(
            f"cluster: got {address!r}, where nothing answers; expected the address of "
            "a Dask scheduler, as in tcp://host:8786"
        ) from exc
    if not client.nthreads():
        client.close()
        raise SolverError(f"cluster: the scheduler at {address} has no workers")
    return client
