"""The event mode: requests of a trace run through a plan, with queues and batches.

A home takes requests in order of arrival and runs them in steps: each running request
decodes one token, and the rest of the step's tokens are prompts in chunks. In each
layer the backbone runs, then the calls go to their servers. Links, and processors,
serve whoever comes first. docs/replay.md says what is simulated and what is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from meldopt.errors import TraceError

from .backbone import Backbone
from .compute import ComputeModel
from .event_build import check_roam, check_times, state_of, tables_of
from .event_state import (
    BACK,
    BINS,
    DECODE,
    FAILED,
    FINISHED,
    OUT,
    PREFILL,
    State,
    Window,
)
from .options import options_of
from .records import Records
from .scenario import Course, Scenario, course_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from meldopt.plan import Plan
    from meldopt.problem import Problem
    from meldopt.trace import Chunk, Trace

    from .match import Match

MOST_TOKENS = 65535
"""Tokens of a step: their numbers are kept in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How homes batch, and how shares are followed.

    Attributes
    ----------
    max_batch
        Requests that run in one batch.
    step_tokens
        Tokens of a step beyond which no prompt is added; decoding requests all run.
    lanes
        Batches that each home has in flight at a time; with more than one, a batch
        computes while another waits for its servers.
    split
        How calls are dealt to several copies: ``"carry"`` keeps the number that each
        got within one of its share; ``"hash"`` draws as `score` does.
    fusion
        ``"budget"`` fuses as many calls as the plan says, those most like another one
        first; ``"partner"`` only those that have another token in the same step, layer
        and link to be fused with.
    siblings
        Whether messages that one step sends in one layer wait for each other on a
        link that their routes share: ``"queue"``, or ``"free"`` as `parallel` has it.
        All others wait for them in any case.
    """

    max_batch: int = 32
    step_tokens: int = 256
    lanes: int = 1
    split: Literal["carry", "hash"] = "carry"
    fusion: Literal["budget", "partner"] = "budget"
    siblings: Literal["queue", "free"] = "queue"

    def __post_init__(self) -> None:
        for name in ("max_batch", "step_tokens", "lanes"):
            value = getattr(self, name)
            if not 1 <= value <= MOST_TOKENS:
                raise ValueError(f"{name}: got {value}, expected 1 to {MOST_TOKENS}")
        for name, known in (
            ("split", ("carry", "hash")),
            ("fusion", ("budget", "partner")),
            ("siblings", ("queue", "free")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected one of {known}"
                )


def replay_events(
    problem: Problem,
    plan: Plan,
    trace: Trace,
    found: Match,
    *,
    settings: Settings | None = None,
    scenario: Scenario | None = None,
    backbone: Backbone | None = None,
    compute: ComputeModel | None = None,
) -> Records:
    """Run the requests of a trace through a plan.

    Parameters
    ----------
    problem, plan
        Of one instance.
    trace
        Streams: only the tokens of requests that are running are in memory, unless
        the scenario drifts.
    found
        From `match`.
    settings
        Batching; the default if None.
    scenario
        What happens meanwhile; nothing if None.
    backbone
        From `backbone_of`; it takes no time if None.
    compute
        Times of expert batches; the neutral model if None.

    Raises
    ------
    UnsupportedFeatureError
        If the scenario has failures and the dataflow is `roam`.
    PlanError
        If a share goes where no route leads, or to a copy that cannot run; in `roam`,
        if an expert has no copy.
    TraceError
        At the first fault of the trace.
    FileFormatError
        If the scenario does not fit the problem.
    """
    course = course_of(
        scenario or Scenario(), problem, trace.requests.arrival_s, found.request_demand
    )
    run = _Run(course, plan, trace, found, settings or Settings(), backbone, compute)
    run.go(whole=bool(scenario and scenario.drift))
    return run.records()


class _Run:
    """One run: its arrays, and the stream of tokens that feeds it."""

    def __init__(
        self,
        course: Course,
        plan: Plan,
        trace: Trace,
        found: Match,
        settings: Settings,
        backbone: Backbone | None,
        compute: ComputeModel | None,
    ) -> None:
        problem = course.problem
        backbone = backbone or Backbone.none(problem)
        compute = compute or ComputeModel.neutral(problem, reuse=backbone.reuse)
        options = options_of(problem, plan)
        if problem.dataflow == "roam":
            check_roam(problem, plan, course)
        else:
            check_times(problem, plan, options)
        self.problem, self.course, self.trace = problem, course, trace
        self.tables = tables_of(
            problem, plan, options, course, found, trace, settings, backbone, compute
        )
        self.state = state_of(problem, plan, options, course, trace, self.tables)

    def go(self, *, whole: bool) -> None:
        """Run to the end, loading tokens when they are needed."""
        from .event_loop import ROWS, run, schedule
        from .packed import pack

        tables, state = pack(self.tables), pack(self.state)
        schedule(tables, state)
        feed = _Feed(self.trace, self.course.body, self.state)
        feed.more(whole=whole)
        while run(tables, state, pack(feed.window)) == ROWS:
            feed.more()

    def records(self) -> Records:
        """Turn the arrays into a result."""
        problem, state = self.problem, self.state
        sim = state.sim[0]
        requests = state.requests[: self.trace.num_requests]
        num_k, num_v = len(problem.link_from), problem.num_places
        bins = min(BINS, int(sim["now"] / sim["width"]) + 1)
        places, links = state.places[:num_v], state.links[:num_k]
        by_cause, by_call, saved = _link_bytes(problem, state)
        power = problem.power_w
        joule = by_cause.sum(axis=1) * problem.link_joule_per_byte
        distance = np.nan
        if sim["partners"]:
            distance = float(sim["distance"] / sim["partners"])
        return Records(
            labels=problem.labels,
            application_of=problem.application_of,
            home_of=problem.home_of,
            server_of=problem.server_of,
            processor_of=problem.processor_of,
            arrival_s=requests["arrival"].copy(),
            begun_s=requests["begun"].copy(),
            first_token_s=requests["first"].copy(),
            finish_s=requests["finish"].copy(),
            demand=requests["demand"].copy(),
            prompt_tokens=requests["prompt"].copy(),
            output_tokens=requests["output"].copy(),
            output_done=requests["output_done"].copy(),
            lost_calls=requests["lost"].copy(),
            failed=requests["state"] == FAILED,
            end_s=float(sim["now"]),
            bin_s=float(sim["width"]),
            processor_busy_s=state.processor_bins[:, :bins].copy(),
            link_busy_s=state.link_bins[:num_k, :bins].copy(),
            bin_tokens=state.token_bins[:, :bins].copy(),
            place_busy_s=places["busy"].copy(),
            backbone_busy_s=places["backbone"].copy(),
            place_saved_s=places["saved"].copy(),
            link_busy_total_s=links["busy"].copy(),
            link_bytes=by_cause,
            link_call_bytes=by_call,
            link_saved_bytes=saved,
            counts=state.counts,
            tokens=state.tokens,
            loss_nats=state.loss,
            place_joule=np.where(places["busy"] > 0, places["busy"] * power, 0.0),
            backbone_joule=np.where(
                places["backbone"] > 0, places["backbone"] * power, 0.0
            ),
            link_joule=joule,
            steps=int(sim["steps"]),
            events=int(sim["events"]),
            calls=int(sim["calls"]),
            fuse_short=int(sim["short"]),
            fuse_distance=distance,
        )


class _Feed:
    """The stream of tokens: a window on it, as wide as the running requests."""

    def __init__(self, trace: Trace, body: NDArray[np.int64], state: State) -> None:
        self.trace, self.body, self.state = trace, body, state
        self.chunks: Iterator[Chunk] = trace.chunks()
        header = trace.header
        count = len(trace.requests)
        self.rows = np.zeros(count, dtype=np.int64)  # loaded so far
        self.first = np.zeros(count, dtype=np.int64)  # number of the first
        self.straight = bool((body == np.arange(count)).all())
        self.loaded = 0
        self.window = Window(
            experts=np.zeros((0, header.num_layers, header.top_k), dtype=np.uint16),
            gates=np.zeros((0, header.num_layers, header.top_k), dtype=np.uint16),
            signature=np.zeros((0, header.num_layers), dtype=np.uint64),
        )

    def more(self, *, whole: bool = False) -> None:
        """Load tokens until at least one more request has all of its own."""
        parts: list[Window] = []
        before = complete = int(self.state.sim[0]["complete"])
        while whole or complete == before:
            chunk = next(self.chunks, None)
            if chunk is None:
                complete = len(self.rows)
                break
            parts.append(self.take(chunk))
            # The last request of the chunk may go on in the next one.
            complete = int(chunk.token_request[-1])
        gone = np.flatnonzero(self.rows[:complete] == 0)
        if len(gone):
            raise TraceError(
                f"{self.trace.place}: got no tokens of request {gone[0]}, expected some"
            )
        self.show(parts, complete)

    def take(self, chunk: Chunk) -> Window:
        """Count the tokens of a chunk, and give them the types of the window."""
        of = chunk.token_request
        requests, start, count = np.unique(of, return_index=True, return_counts=True)
        fresh = self.rows[requests] == 0
        self.first[requests[fresh]] = self.loaded + start[fresh]
        self.rows[requests] += count
        self.loaded += len(of)
        bits = np.ascontiguousarray(chunk.gates).view(np.uint16)
        signature = chunk.signature
        if signature is None:
            signature = np.zeros((0, chunk.experts.shape[1]), dtype=np.uint64)
        return Window(
            experts=np.ascontiguousarray(chunk.experts, dtype=np.uint16),
            gates=bits & np.uint16(0x7FFF),  # -0 is 0
            signature=np.ascontiguousarray(signature),
        )

    def show(self, parts: list[Window], complete: int) -> None:
        """Let the kernel see what is loaded; let go what nobody needs any more."""
        sim, requests = self.state.sim[0], self.state.requests
        if self.straight:
            oldest, coming = int(sim["oldest"]), int(sim["next"])
            done = requests["state"][oldest:coming] >= FINISHED
            oldest += int(np.argmin(np.append(done, False)))
            sim["oldest"] = oldest
            needed = self.loaded
            if oldest < len(self.rows) and self.rows[oldest]:
                needed = int(self.first[oldest])
            skip = min(needed - int(sim["base"]), len(self.window.experts))
            sim["base"] += skip
            kept = Window(
                experts=self.window.experts[skip:],
                gates=self.window.gates[skip:],
                signature=self.window.signature[skip:],
            )
            self.window = _joined([kept, *parts])
        else:
            self.window = _joined([self.window, *parts])
        sim["complete"] = complete
        body = self.body[:complete]
        requests["row"][:complete] = self.first[body]
        requests["rows"][:complete] = self.rows[body]


def _joined(windows: list[Window]) -> Window:
    windows = [window for window in windows if len(window.experts)] or windows[:1]
    if len(windows) == 1:
        return windows[0]
    return Window(
        experts=np.concatenate([window.experts for window in windows]),
        gates=np.concatenate([window.gates for window in windows]),
        signature=np.concatenate([window.signature for window in windows]),
    )


def _link_bytes(
    problem: Problem, state: State
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return bytes by link and cause, bytes as `score` counts them, and bytes saved."""
    num_k = len(problem.link_from)
    by_cause, by_call, saved = np.zeros((num_k, 5)), np.zeros(num_k), np.zeros(num_k)
    phi = problem.fuse_factor
    # Roaming tokens are states on their way in both tables.
    roam = problem.dataflow == "roam"
    back = problem.bytes_out if roam else problem.bytes_back
    size = {OUT: problem.bytes_out, BACK: back}
    for direction in (OUT, BACK):
        bytes_ = size[direction]
        calls = state.by_call[direction]
        for s, t in np.argwhere(calls.sum(axis=0) > 0).tolist():
            links = problem.route_links[s][t]
            for phase in (PREFILL, DECODE):
                plain, fused = state.sent[direction, phase, :, s, t]
                by_cause[links, 2 * direction + phase] += bytes_ * (plain + phi * fused)
                saved[links] += bytes_ * (1 - phi) * fused
            by_call[links] += bytes_ * (calls[0, s, t] + phi * calls[1, s, t])
    return by_cause, by_call, saved
