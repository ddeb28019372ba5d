"""What the event mode found: plain arrays, for reports and plots.

======== ==========================================================================
axis     meaning
======== ==========================================================================
R        requests
T        bins of time
Q, G     demands, applications
L        layers
S, V, P  servers, places, processors
K        directed links
======== ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .event_state import FATES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from meldopt.problem import Labels

CAUSES = ("out-prefill", "out-decode", "back-prefill", "back-decode", "migration")
"""Why bytes cross a link: tokens of prompts and of outputs, on their way to a server
and back; copies that move (none, as long as the plan stands)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Records:
    """Everything that happened in one run of the event mode.

    Attributes
    ----------
    labels
        Names of demands, servers, places, processors, links; with the demands that a
        scenario added.
    application_of, home_of, server_of, processor_of
        Application and home of a demand, (Q,); server and processor of a place, (V,).
    arrival_s, begun_s, first_token_s, finish_s
        When a request came, entered its first step, had its first token, and its last;
        nan if it never did. (R,)
    demand, prompt_tokens, output_tokens
        Of each request, (R,).
    output_done
        Tokens that came out, (R,).
    lost_calls
        Expert calls of a request that no copy answered, (R,).
    failed
        Whether a request was lost when its home failed, (R,).
    end_s
        When the last event was.
    bin_s
        Width of a bin of time.
    processor_busy_s, link_busy_s
        Busy seconds by bin, (P, T) and (K, T); the backbone's are among them.
    bin_tokens
        Tokens that left a step, prompt and output, (2, T).
    place_busy_s, backbone_busy_s
        Seconds of expert batches, and of the backbone, (V,).
    place_saved_s
        Seconds of arithmetic of fused calls, which an engine that computes a fused
        token once would not spend; they are in ``place_busy_s`` all the same. (V,)
    link_busy_total_s
        Busy seconds, (K,).
    link_bytes
        By cause, (K, causes): a token is sent once to a server, whatever it calls.
    link_call_bytes
        As `score` counts: one transfer for each call, (K,).
    link_saved_bytes
        What fusion kept off the links, (K,).
    counts
        Calls by fate, layer, demand and server, (fates, L, Q, S + 1). ``served`` is
        without ``fused``. Pruned calls stand where they would have gone, the last
        server if nobody could have answered.
    tokens
        Tokens that passed the model: prompt and output, (2, Q).
    loss_nats
        Estimated quality loss, the plan's losses of the calls as they were answered,
        summed over tokens; lost calls add nothing. (Q,)
    place_joule, backbone_joule, link_joule
        Energy, (V,), (V,), (K,).
    steps, events, calls
        Steps of homes, events, expert calls.
    fuse_short
        Calls that the budgets would fuse, but that had no partner.
    fuse_distance
        Mean number of bits in which signatures of fused tokens and their nearest
        partners differ; nan without signatures.
    """

    labels: Labels
    application_of: NDArray[np.int64]
    home_of: NDArray[np.int64]
    server_of: NDArray[np.int64]
    processor_of: NDArray[np.int64]
    arrival_s: NDArray[np.float64]
    begun_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    demand: NDArray[np.int64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    output_done: NDArray[np.int64]
    lost_calls: NDArray[np.int64]
    failed: NDArray[np.bool_]
    end_s: float
    bin_s: float
    processor_busy_s: NDArray[np.float64]
    link_busy_s: NDArray[np.float64]
    bin_tokens: NDArray[np.float64]
    place_busy_s: NDArray[np.float64]
    backbone_busy_s: NDArray[np.float64]
    place_saved_s: NDArray[np.float64]
    link_busy_total_s: NDArray[np.float64]
    link_bytes: NDArray[np.float64]
    link_call_bytes: NDArray[np.float64]
    link_saved_bytes: NDArray[np.float64]
    counts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    loss_nats: NDArray[np.float64]
    place_joule: NDArray[np.float64]
    backbone_joule: NDArray[np.float64]
    link_joule: NDArray[np.float64]
    steps: int
    events: int
    calls: int
    fuse_short: int
    fuse_distance: float

    @property
    def num_requests(self) -> int:
        """Requests, finished or not."""
        return len(self.arrival_s)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Whether a request got all its tokens, (R,)."""
        done: NDArray[np.bool_] = np.isfinite(self.finish_s)
        return done

    @property
    def application(self) -> NDArray[np.int64]:
        """Application of each request, (R,)."""
        return self.application_of[self.demand]

    @property
    def home(self) -> NDArray[np.int64]:
        """Home (server) of each request, (R,)."""
        return self.home_of[self.demand]

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """Time to first token of each request, (R,); nan if there was none."""
        return self.first_token_s - self.arrival_s

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Mean time per output token after the first, (R,); nan for fewer than two."""
        more = self.output_tokens - 1
        time: NDArray[np.float64] = np.where(
            more > 0,
            (self.finish_s - self.first_token_s) / np.maximum(more, 1),
            np.nan,
        )
        return time

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Time from arrival to the last token of each request, (R,); nan if none."""
        return self.finish_s - self.arrival_s

    @property
    def bin_start_s(self) -> NDArray[np.float64]:
        """Start of each bin of time, (T,)."""
        start: NDArray[np.float64] = (
            np.arange(self.bin_tokens.shape[1], dtype=np.float64) * self.bin_s
        )
        return start

    @cached_property
    def application_tokens(self) -> NDArray[np.int64]:
        """Tokens that passed the model, of each application, (G,)."""
        count = np.zeros(len(self.labels.applications), dtype=np.int64)
        np.add.at(count, self.application_of, self.tokens.sum(axis=0))
        return count

    @cached_property
    def quality_loss(self) -> NDArray[np.float64]:
        """Estimated loss of each application in nats per token, (G,); nan without."""
        total = np.zeros(len(self.labels.applications))
        np.add.at(total, self.application_of, self.loss_nats)
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = total / self.application_tokens
        return mean

    def fate(self, name: str) -> NDArray[np.int64]:
        """Return the calls of one of `FATES`, (L, Q, S + 1)."""
        calls: NDArray[np.int64] = self.counts[FATES.index(name)]
        return calls

    @property
    def energy_joule(self) -> float:
        """Energy of experts, backbone and links."""
        return float(
            self.place_joule.sum() + self.backbone_joule.sum() + self.link_joule.sum()
        )

    @property
    def processor_utilisation(self) -> NDArray[np.float64]:
        """Busy share of each processor by bin, (P, T)."""
        return self.processor_busy_s / self.bin_s

    @property
    def link_utilisation(self) -> NDArray[np.float64]:
        """Busy share of each link by bin, (K, T)."""
        return self.link_busy_s / self.bin_s
