"""Check after check, on all ranks alike: what one raises is a finding, and the next ones go on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mindcv_ghost.doctor.board import GRACE_SECONDS, Alone, Board, Lost
from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, Finding, Report, merged
from mindcv_ghost.doctor.watch import Watch
from mindcv_ghost.launch.world import World

__all__ = ["Check", "Examination"]

EVERY, HOST, FIRST = "every rank", "one rank a host", "rank 0"


@dataclass(frozen=True)
class Check:
    """Something to try.

    Args:
        what: its name, a line's beginning.
        run: tries it, on this rank.
        seconds: after which it has failed.
        needs: names of checks without which it can't be made.
        where: which ranks make it: ``EVERY``, ``HOST`` or ``FIRST``; the others wait.
    """

    what: str
    run: Callable[[], Finding]
    seconds: float = 60.0
    needs: tuple[str, ...] = ()
    where: str = EVERY


class Examination:
    """Makes checks, and has the ranks agree on what each came to.

    All ranks make the same checks in the same order and skip the same ones, so that none waits in
    a collective for another that doesn't come.

    Args:
        world: this process among its job's.
        board: where ranks tell each other.
        watch: ends what doesn't end.
        report: gets the findings.
        show: prints a line; on rank 0.
        patience: seconds for each check, 0 for its own.
    """

    def __init__(
        self,
        world: World,
        board: Alone | Board,
        watch: Watch,
        report: Report,
        show: Callable[[str], None],
        patience: float = 0.0,
    ) -> None:
        self.world, self.board, self.watch = world, board, watch
        self.report, self.show, self.patience = report, show, patience
        self.lost = False
        self._blocked: set[str] = set()

    def make(self, checks: Sequence[Check]) -> None:
        """Make checks one after the other; after ranks were lost, none is left to make."""
        for check in checks:
            if self.lost:
                return
            number = len(self.report.findings)
            missing = [name for name in check.needs if name in self._blocked]
            if missing:
                text = f"can't be tried without {', '.join(missing)}"
                self._add(Finding(check.what, SKIPPED, text, blocks=True))
                continue
            self.watch.begin(number, check.what, self.patience or check.seconds)
            try:
                finding = self._own(check)
                findings = self.board.exchange(number, finding)
            except Lost as lost:
                findings = lost.findings
                self._add(self._without(check.what, findings, lost.missing))
                self.lost = True
                return
            finally:
                self.watch.end()
            self._add(merged(findings))

    def _own(self, check: Check) -> Finding:
        concerned = {
            EVERY: True,
            HOST: self.world.local_rank == 0,
            FIRST: self.world.is_main,
        }[check.where]
        if not concerned:
            return Finding(check.what, OK)
        started = time.perf_counter()
        try:
            finding = check.run()
        except (Exception, SystemExit) as error:
            finding = Finding(check.what, BROKEN, first_line(error), blocks=True)
        return dataclasses.replace(finding, seconds=round(time.perf_counter() - started, 2))

    def _add(self, finding: Finding) -> None:
        if finding.blocks:
            self._blocked.add(finding.what)
        self.report.findings.append(finding)
        self.watch.found(finding)
        for line in finding.lines():
            self.show(line)

    @staticmethod
    def _without(what: str, findings: Mapping[int, Finding], missing: Sequence[int]) -> Finding:
        """A finding of some ranks, of which one is broken, while others are still at it."""
        finding = merged(findings)
        others = ", ".join(map(str, missing))
        waited = f"still in it {GRACE_SECONDS:.0f} s later: rank {others}"
        return dataclasses.replace(finding, text=f"{finding.text}; {waited}", blocks=True)


def first_line(error: BaseException) -> str:
    """What an exception says first, with its type unless the text is for users already.

    >>> first_line(ValueError("no\\nmore")), first_line(KeyError())
    ('ValueError: no', 'KeyError')
    """
    from mindcv_ghost.errors import UserError

    lines: list[Any] = [line.strip(" -") for line in str(error).splitlines() if line.strip(" -")]
    if isinstance(error, UserError):
        return "".join(f"{a}{' ' if a[-1] in '.:;,' else '; '}" for a in lines[:-1]) + lines[-1]
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name
