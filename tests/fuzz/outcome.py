"""Runs a parser on one input: it must return or raise an expected error within a time limit.

The limit is on what this process computes, because the machine may be busy with others. A parser
that waits for ever ends with pytest's limit.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

SECONDS = 2.0  # for one input; the median takes a thousandth of it


@dataclass
class Tally:
    """Outcomes of many inputs.

    Args:
        allowed: exceptions that are an answer.
    """

    allowed: tuple[type[BaseException], ...]
    inputs: int = 0
    taken: int = 0
    tracebacks: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    longest: float = 0.0

    def run(self, call: Callable, what: object) -> object:
        """Call with one input; what it gives, or None."""
        self.inputs += 1
        start = time.process_time()
        try:
            given = call(what)
            self.taken += 1
            return given
        except self.allowed as error:
            assert str(error).strip()
            return None
        except Exception:
            self.tracebacks.append(f"{what!r:.2000}\n{traceback.format_exc()}")
            return None
        finally:
            seconds = time.process_time() - start
            self.longest = max(self.longest, seconds)
            if seconds > SECONDS:
                self.hangs.append(f"{seconds:.1f} s: {what!r:.2000}")

    def report(self, capsys, title: str, more: str = "") -> None:
        """Print the line that `make test-fuzz` is read for; fail if there is anything to say."""
        with capsys.disabled():
            print(
                f"\n{title}: {self.inputs:,} inputs, {len(self.tracebacks)} tracebacks, "
                f"{len(self.hangs)} hangs ({self.taken:,} taken, {self.inputs - self.taken:,} "
                f"refused, the slowest {self.longest:.2f} s{more})"
            )
        assert not self.tracebacks, "\n".join(self.tracebacks[:3])
        assert not self.hangs, "\n".join(self.hangs[:3])
