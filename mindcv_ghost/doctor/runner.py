"""Runs checks one after the other, the same ones on all ranks; an exception is a result."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mindcv_ghost.doctor.exchange import GRACE_SECONDS, FileExchange, MissingRanks, SingleRank
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, CheckResult, Report, merge_ranks
from mindcv_ghost.doctor.watchdog import Watchdog
from mindcv_ghost.errors import UserError, type_and_first_line
from mindcv_ghost.launch.world import World

__all__ = ["EVERY_RANK", "ONE_PER_HOST", "RANK_0", "Check", "CheckRunner", "Output"]

EVERY_RANK, ONE_PER_HOST, RANK_0 = "every rank", "one rank per host", "rank 0"
T = TypeVar("T")


class Output(Generic[T]):
    """A value that one check produces for the checks that need it."""

    def __init__(self) -> None:
        self._values: list[T] = []

    def set(self, value: T) -> T:
        """Store the value, and return it."""
        self._values = [value]
        return value

    def get(self) -> T:
        """Return the value.

        Raises:
            LookupError: if the check that produces it hasn't succeeded.
        """
        if not self._values:
            raise LookupError("an earlier check has produced no value")
        return self._values[0]


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        what: its name, with which its line begins.
        run: runs it on this rank.
        seconds: time limit.
        needs: names of checks that must have succeeded.
        on: which ranks run it: ``EVERY_RANK``, ``ONE_PER_HOST`` or ``RANK_0``; the others wait.
    """

    what: str
    run: Callable[[], CheckResult]
    seconds: float = 60.0
    needs: tuple[str, ...] = ()
    on: str = EVERY_RANK


class CheckRunner:
    """Runs checks, and merges the ranks' results.

    All ranks run the same checks in the same order and skip the same ones, so that no rank waits in
    a collective that another one doesn't call.

    Args:
        world: this process's place in the job.
        exchange: shares results between ranks.
        watchdog: ends checks that exceed their time limit.
        report: receives the results.
        show: prints a line; on rank 0.
        patience: time limit of every check in seconds; 0 for each check's own.
    """

    def __init__(
        self,
        world: World,
        exchange: SingleRank | FileExchange,
        watchdog: Watchdog,
        report: Report,
        show: Callable[[str], None],
        patience: float = 0.0,
    ) -> None:
        self.world, self.exchange, self.watchdog = world, exchange, watchdog
        self.report, self.show, self.patience = report, show, patience
        self.ranks_are_missing = False
        self._blocked: set[str] = set()

    def run(self, checks: Sequence[Check]) -> None:
        """Run checks in order; stops for good once ranks are missing."""
        for check in checks:
            if self.ranks_are_missing:
                return
            number = len(self.report.results)
            unmet = [name for name in check.needs if name in self._blocked]
            if unmet:
                text = f"can't be checked without {', '.join(unmet)}"
                self._add(CheckResult(check.what, SKIPPED, text, blocks=True))
                continue
            self.watchdog.begin(number, check.what, self.patience or check.seconds)
            try:
                results = self.exchange.gather(number, self._run_here(check))
            except MissingRanks as error:
                self._add(self._with_missing_ranks(error.results, error.missing))
                self.ranks_are_missing = True
                return
            finally:
                self.watchdog.end()
            self._add(merge_ranks(results))

    def _run_here(self, check: Check) -> CheckResult:
        runs_here = {
            EVERY_RANK: True,
            ONE_PER_HOST: self.world.local_rank == 0,
            RANK_0: self.world.is_main,
        }[check.on]
        if not runs_here:
            return CheckResult(check.what, OK)
        started = time.perf_counter()
        try:
            result = check.run()
        except (Exception, SystemExit) as error:
            result = CheckResult(check.what, BROKEN, _worded(error), blocks=True)
        return dataclasses.replace(result, seconds=round(time.perf_counter() - started, 2))

    def _add(self, result: CheckResult) -> None:
        if result.blocks:
            self._blocked.add(result.what)
        self.report.results.append(result)
        self.watchdog.add_result(result)
        for line in result.lines():
            self.show(line)

    @staticmethod
    def _with_missing_ranks(
        results: Mapping[int, CheckResult], missing: Sequence[int]
    ) -> CheckResult:
        """Merge the results of some ranks, one of them broken, and name those still running."""
        result = merge_ranks(results)
        others = ", ".join(map(str, missing))
        still_running = f"still running {GRACE_SECONDS:.0f} s later: rank {others}"
        return dataclasses.replace(result, text=f"{result.text}; {still_running}", blocks=True)


def _worded(error: BaseException) -> str:
    """Return a UserError's whole message on one line, or another error's type and first line."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    if not isinstance(error, UserError) or not lines:
        return type_and_first_line(error)
    return "".join(f"{a}{' ' if a[-1] in '.:;,' else '; '}" for a in lines[:-1]) + lines[-1]
