"""Results of checks, and the report that is made of them: lines, summary, block to paste, JSON."""

from __future__ import annotations

import dataclasses
import getpass
import json
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "BROKEN",
    "OK",
    "SKIPPED",
    "SLOW",
    "CheckResult",
    "Report",
    "anonymized",
    "merge_ranks",
]

OK, SKIPPED, SLOW, BROKEN = "ok", "skipped", "slow", "broken"
_BY_SEVERITY = (OK, SKIPPED, SLOW, BROKEN)
_BEGIN = "---------------- paste from here ----------------"
_END = "---------------- to here -------------------------"


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Args:
        what: the check's name.
        state: ``ok``; ``slow``: it works, but something should be improved; ``broken``;
            ``skipped``.
        text: what was found; empty on a rank that has nothing to add.
        remedy: how to fix it.
        numbers: measured values, for ``--json``.
        blocks: whether checks that need this one must be skipped.
        seconds: duration of the check.
        per_rank: appended to the text, from each rank.
    """

    what: str
    state: str
    text: str = ""
    remedy: str = ""
    numbers: dict = field(default_factory=dict)
    blocks: bool = False
    seconds: float = 0.0
    per_rank: str = ""

    def lines(self) -> list[str]:
        """Format the result as a line, and the remedy, if any, as a second one.

        >>> CheckResult("shm", "broken", "1 MB free", "make room").lines()
        ['broken   shm: 1 MB free', '         -> make room']
        """
        lines = [f"{self.state:<8} {self.what}: {self.text}"]
        if self.remedy:
            lines.append(f"{'':<8} -> {self.remedy}")
        return lines


def merge_ranks(results: Mapping[int, CheckResult]) -> CheckResult:
    """Merge the results of a check on several ranks: the worst state wins, and names its ranks.

    Args:
        results: by rank; rank 0's text is shown without its number.
    """
    worst = max(results.values(), key=lambda each: _BY_SEVERITY.index(each.state)).state
    first = results[min(results)]
    texts: dict[str, list[int]] = {}
    for rank, each in results.items():
        if each.state == worst and each.text and worst != OK:
            texts.setdefault(each.text, []).append(rank)
    everywhere = [text for text, ranks in texts.items() if len(ranks) == len(results)]
    with_text = [rank for rank, each in results.items() if each.text]
    if everywhere or with_text == [min(results)]:  # the other ranks had nothing to check
        text = everywhere[0] if everywhere else first.text
    else:
        parts = [first.text] if first.text and first.state != worst else []
        parts += [f"{_name_ranks(ranks)}: {text}" for text, ranks in texts.items()]
        text = "; ".join(parts) or first.text
    per_rank = [each.per_rank for each in results.values() if each.per_rank]
    if per_rank and worst == OK:
        text += f" {', '.join(per_rank[:64])}" + (", ..." if len(per_rank) > 64 else "")
    remedies = dict.fromkeys(each.remedy for each in results.values() if each.remedy)
    return dataclasses.replace(
        first,
        state=worst,
        text=text,
        per_rank="",
        remedy="; ".join(remedies),
        blocks=any(each.blocks for each in results.values()),
        seconds=max(each.seconds for each in results.values()),
    )


def _name_ranks(ranks: Sequence[int]) -> str:
    """Name the first four ranks, and count the others."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
    return f"ranks {', '.join(map(str, ranks[:4]))}{more}"


def anonymized(text: str, home: str = "", host: str = "", user: str = "") -> str:
    """Replace the home folder and the names of the machine and the user.

    Args:
        text: any text.
        home: home folder; this process's if empty.
        host: the machine's name; this machine's if empty.
        user: the user's name; this process's if empty.

    >>> anonymized("/home/ann/x on box7 by ann", "/home/ann", "box7", "ann")
    '~/x on HOST by USER'
    """
    home, host = home or str(Path.home()), host or socket.gethostname()
    if not user:
        try:
            user = getpass.getuser()
        except (KeyError, OSError, ImportError):  # a container's user without a name
            user = ""
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    # "root" identifies nobody, and occurs in ordinary text.
    common = ("", "root", "localhost")
    for name, placeholder in ((host, "HOST"), (host.split(".")[0], "HOST"), (user, "USER")):
        if name not in common and len(name) > 1:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", placeholder, text)
    return text


@dataclass
class Report:
    """The results of all checks.

    Args:
        facts: first lines of the block to paste, by label: versions, platform, device, command.
        results: in the order of the checks.
    """

    facts: dict[str, str] = field(default_factory=dict)
    results: list[CheckResult] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status: 1 if something is broken."""
        return int(any(each.state == BROKEN for each in self.results))

    def summary(self) -> list[str]:
        """Summarise the results in a few lines."""
        named = {
            state: [each.what for each in self.results if each.state == state]
            for state in _BY_SEVERITY
        }
        counts = ", ".join(f"{len(named[state])} {state}" for state in _BY_SEVERITY if named[state])
        lines = [f"{len(self.results)} checks: {counts}."]
        if named[BROKEN]:
            lines.append(
                f"Broken: {', '.join(named[BROKEN])}. Begin with the first: the others may be its "
                "consequences. If the advice doesn't help, paste the block below into an issue."
            )
        elif "training" in named[OK] + named[SLOW]:
            lines.append("Nothing is broken, and training works.")
        else:
            lines.append("Nothing that was checked is broken. Training wasn't checked.")
        if named[SLOW]:
            lines.append(f"Works, but could be improved: {', '.join(named[SLOW])}.")
        return lines

    def block(self) -> str:
        """Format the block to paste into an issue, without names of people and machines."""
        lines = [f"{label}: {value}" for label, value in self.facts.items()]
        for each in self.results:
            lines += each.lines()
        return anonymized("\n".join([_BEGIN, *lines, _END]))

    def closing(self) -> str:
        """Format the text that follows the last check's line: summary and block."""
        return "\n".join(["", *self.summary(), "", self.block()])

    def as_json(self) -> str:
        """Format everything as one JSON object on one line."""
        checks = [
            {key: value for key, value in vars(each).items() if key not in ("blocks", "per_rank")}
            for each in self.results
        ]
        return json.dumps(
            _anonymized_json({"status": self.status, "facts": self.facts, "checks": checks})
        )


def _anonymized_json(value: Any) -> Any:
    if isinstance(value, str):
        return anonymized(value)
    if isinstance(value, dict):
        return {name: _anonymized_json(each) for name, each in value.items()}
    return [_anonymized_json(each) for each in value] if isinstance(value, (list, tuple)) else value
