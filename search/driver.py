"""The one process that writes a study: asks, has candidates evaluated, tells, and ends with a verified front."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.trial import FrozenTrial, TrialState

from ..spaces import Architecture, Space
from . import interrupts
from .evaluation import Bench, Evaluator, costs
from .feasibility import preflight
from .frames import Row, front_of, rows_of
from .metrics import Reading
from .outcome import Outcome, violations
from .proposer import Proposer
from .quantities import counted
from .reporter import Reporter
from .storage import OUTCOME, EventLog, StudyStore
from .verification import Verified, finalists, front_of_search, test_accuracy, verified_front, verify

if TYPE_CHECKING:
    from .study_schema import StudySpec

__all__ = ["Driver"]

T = TypeVar("T")
WAIT_S = 1.0
"""Longest wait before the driver looks whether the user has asked to stop."""
_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}


@dataclass(frozen=True)
class _Job:
    """A trial that is being evaluated."""

    trial: FrozenTrial
    ask_seconds: float


class Driver:
    """Runs a study to its end.

    Args:
        bench: what evaluators share.
        space: what can be built.
        store: the trials; this driver holds the study's lock.
        events: the log.
        reporter: told of everything that happens.
        only: the architectures to choose from, when these are not all of the space.
    """

    def __init__(
        self,
        bench: Bench,
        space: Space,
        store: StudyStore,
        events: EventLog,
        reporter: Reporter,
        only: Sequence[Architecture] | None = None,
    ) -> None:
        self.bench = bench
        self.spec: StudySpec = bench.spec
        self.space = space
        self.store = store
        self.events = events
        self.reporter = reporter
        self.objectives = [objective.metric for objective in self.spec.objectives]
        self._proposer = Proposer(
            space,
            directions=[objective.direction for objective in self.spec.objectives],
            sampler=self.spec.search.sampler,
            seed=self.spec.search.seed,
            workers=self.spec.run.workers,
            only=only,
        )
        self._free: SimpleQueue[Evaluator] = SimpleQueue()
        self._evaluators: list[Evaluator] = []
        self._uncounted: set[str] = set()
        self._missing: set[str] = set()
        self._rows: list[tuple[FrozenTrial, Row]] = []

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Has the workers at hand inside; whatever happens, none is left behind."""
        self._evaluators = [Evaluator(self.bench, slot) for slot in range(self.spec.run.workers)]
        for evaluator in self._evaluators:
            self._free.put(evaluator)
        try:
            yield
        finally:
            self.bench.close()

    def preflight(self) -> None:
        """Refuses a study that has no trial yet and a limit that nothing can meet.

        Raises:
            InfeasibleError: it names the limit and the best value seen.
        """
        if not self.store.trials:
            preflight(self._evaluators[0], self.space, self.spec.limits, self.spec.search.seed, self.bench.tables)

    def search(self) -> None:
        """Evaluates candidates until the total is reached, the time is up, or the space has no other."""
        self._recall()
        adopted = [trial for trial in self.store.trials if trial.state == TrialState.RUNNING]
        if adopted:
            self.reporter.note(f"taking up {counted(len(adopted), 'trial')} cut off earlier")
        waiting = iter(adopted)
        limit = self.spec.search.time_limit
        end = time.monotonic() + limit if limit else None

        def next_job() -> _Job | None:
            for trial in waiting:
                self.events.write("adopted", number=trial.number)
                return _Job(trial, 0.0)
            if len(self.store.trials) >= self.spec.search.trials or self._stands_still():
                return None
            if end is not None and time.monotonic() > end:
                self.reporter.note("the time limit is reached")
                return None
            return self._ask()

        def done(job: _Job, outcome: Outcome) -> None:
            self._tell(job, outcome)
            if new := set(outcome.uncounted) - self._uncounted:
                self._uncounted |= new
                self.reporter.note(f"macs leave out {', '.join(sorted(new))}: nobody has told how to count them")
            for name, reading in outcome.readings.items():
                if reading.value is None and (said := f"{name} is missing: {reading.reason}") not in self._missing:
                    self._missing.add(said)
                    self.reporter.note(said)
            self.reporter.trial(job.trial.number, self.spec.search.trials, job.trial.user_attrs["arch_id"], outcome)

        self._run(next_job, self._evaluate, done)

    def verify(self) -> tuple[list[Verified], list[Verified]]:
        """Verifies finalists; one that breaks a limit when measured is replaced by the next.

        Returns:
            All finalists that were verified, and those of them that are the verified front.
        """
        rows = rows_of(self.store.trials, self.spec.limits)
        able = finalists(rows, self.objectives, self.spec.verify.finalists)
        candidates = iter(able)
        wanted = self.spec.verify.finalists
        verified: list[Verified] = []
        tried = 0

        def next_row() -> Row | None:
            nonlocal tried
            broken = sum(not v.feasible for v in verified)
            if tried - broken >= wanted or tried >= 3 * wanted:
                return None
            tried += 1
            return next(candidates, None)

        def done(row: Row, outcome: Verified) -> None:
            verified.append(outcome)
            self.events.write("verified", number=row.number, feasible=outcome.feasible, reason=outcome.reason)
            self.reporter.finalist(sum(v.feasible for v in verified), min(wanted, len(able)), outcome)

        self._run(next_row, lambda evaluator, row: verify(self.bench, evaluator, row), done)
        front = verified_front(verified, self.objectives)
        return verified, front

    def settle(self) -> list[Verified]:
        """Returns the front of a study without a training: its readings are those of tables and of the search."""
        rows = rows_of(self.store.trials, self.spec.limits)
        return verified_front(front_of_search(self.bench, rows), self.objectives)

    def test(self, front: Sequence[Verified]) -> dict[str, dict[str, Reading]]:
        """Reads the test part: scores the shipped files of each front member, once; see `test_accuracy`."""
        rows = {row.arch_id: row for row in rows_of(self.store.trials, self.spec.limits)}
        child = self._evaluators[0].child
        tested = {}
        for member in front:
            interrupts.check()
            tested[member.arch_id] = test_accuracy(self.bench, child, rows[member.arch_id], self.reporter.note)
        return tested

    def _run(
        self, supply: Callable[[], T | None], work: Callable[[Evaluator, T], Any], done: Callable[[T, Any], None]
    ) -> None:
        """Keeps every evaluator busy; `supply` and `done` are called in this thread only."""
        pending: dict[Future[Any], tuple[Evaluator, T]] = {}
        with ThreadPoolExecutor(len(self._evaluators), thread_name_prefix="hwnas-evaluator") as pool:
            try:
                while True:
                    interrupts.check()
                    while not self._free.empty() and (job := supply()) is not None:
                        evaluator = self._free.get()
                        pending[pool.submit(work, evaluator, job)] = evaluator, job
                    if not pending:
                        return
                    for future in wait(pending, WAIT_S, FIRST_COMPLETED).done:
                        evaluator, job = pending.pop(future)
                        self._free.put(evaluator)
                        done(job, future.result())
            except BaseException:
                self.bench.close()  # what is under way stays `running`, for the next driver to take up
                raise

    def _evaluate(self, evaluator: Evaluator, job: _Job) -> Outcome:
        return evaluator.evaluate(Architecture.from_json(job.trial.user_attrs["arch"]))

    def _ask(self) -> _Job | None:
        start = time.monotonic()
        proposal = self._proposer.propose(
            self.store.trials, {trial.user_attrs["arch_id"] for trial in self.store.trials}
        )
        if proposal is None:
            found = counted(len(self.store.trials), "trial")
            self.reporter.note(f"no architecture that is new was found after {found}")
            return None
        trial = self.store.ask(proposal.template)
        spent = time.monotonic() - start
        self.events.write(
            "asked",
            number=trial.number,
            arch_id=proposal.architecture.id,
            arch=proposal.architecture.to_json(),
            asks=proposal.asks,
            drawn=proposal.drawn,
            seconds=round(spent, 4),
        )
        return _Job(trial, spent)

    def _tell(self, job: _Job, outcome: Outcome) -> None:
        start = time.monotonic()
        told = outcome.to_dict()
        told["seconds"] = {"ask": round(job.ask_seconds, 4), **told["seconds"]}
        number = job.trial.number
        self.store.tell(
            number,
            _STATES[outcome.state],
            outcome.values(self.objectives),
            violations(self.spec.limits, outcome.readings),
            told,
        )
        self.events.write("told", number=number, outcome=told, seconds=round(time.monotonic() - start, 4))

    def _recall(self) -> None:
        """Fills the board of rungs and the cost models with what earlier drivers found out."""
        for device in self.bench.measured:
            device.load(t.user_attrs["arch_id"] for t in self.store.trials if t.state.is_finished())
        for trial in self.store.trials:
            if trial.state.is_finished():
                outcome = Outcome.from_dict(trial.user_attrs[OUTCOME])
                for rung, score in enumerate(outcome.rungs):
                    self.bench.board.note(rung, score, costs(self.spec, outcome.readings))

    def _stands_still(self) -> bool:
        """True when the front has not gained a member for `search.stop.hypervolume_patience` trials."""
        patience = self.spec.search.stop.hypervolume_patience
        if patience is None:
            return False
        kept = self._rows  # what has not changed since the last time is not read again
        self._rows = [
            kept[place] if place < len(kept) and kept[place][0] is trial else (trial, Row(trial, self.spec.limits))
            for place, trial in enumerate(self.store.trials)
        ]
        rows = [row for _, row in self._rows if row.outcome.state != "running"]
        newest = max(front_of(rows, self.objectives), default=0)
        if len(rows) - newest - 1 < patience:
            return False
        self.reporter.note(f"the front has stood still for {counted(patience, 'trial')}")
        return True
