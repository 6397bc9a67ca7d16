"""What a check finds, and how all of it is shown: lines, a verdict, a block to paste, JSON."""

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

__all__ = ["BROKEN", "OK", "SKIPPED", "SLOW", "Finding", "Report", "merged", "without_names"]

OK, SKIPPED, SLOW, BROKEN = "ok", "skipped", "slow", "broken"
_WORSE = (OK, SKIPPED, SLOW, BROKEN)
_BEGIN = "---------------- paste from here ----------------"
_END = "---------------- to here -------------------------"


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    Args:
        what: the check's name.
        state: ``ok``; ``slow``: it works, but something should be mended; ``broken``; ``skipped``.
        text: what was found; empty on a rank that has nothing to add.
        remedy: what to do about it.
        numbers: what was measured, for ``--json``.
        blocks: whether checks that need this one can't be made.
        seconds: that the check took.
        part: what each rank adds to the text.
    """

    what: str
    state: str
    text: str = ""
    remedy: str = ""
    numbers: dict = field(default_factory=dict)
    blocks: bool = False
    seconds: float = 0.0
    part: str = ""

    def lines(self) -> list[str]:
        """The line for people, and below it what to do.

        >>> Finding("shm", "broken", "1 MB free", "make room").lines()
        ['broken   shm: 1 MB free', '         -> make room']
        """
        lines = [f"{self.state:<8} {self.what}: {self.text}"]
        if self.remedy:
            lines.append(f"{'':<8} -> {self.remedy}")
        return lines


def merged(findings: Mapping[int, Finding]) -> Finding:
    """Make one finding of those of several ranks: the worst counts, and names its ranks.

    Args:
        findings: by rank; rank 0's is told as it is.
    """
    worst = max(findings.values(), key=lambda each: _WORSE.index(each.state)).state
    first = findings[min(findings)]
    texts: dict[str, list[int]] = {}
    for rank, each in findings.items():
        if each.state == worst and each.text and worst != OK:
            texts.setdefault(each.text, []).append(rank)
    everywhere = [text for text, ranks in texts.items() if len(ranks) == len(findings)]
    speaking = [rank for rank, each in findings.items() if each.text]
    if everywhere or speaking == [min(findings)]:  # the others had nothing to try
        text = everywhere[0] if everywhere else first.text
    else:
        parts = [first.text] if first.text and first.state != worst else []
        parts += [f"{_ranks(ranks)}: {text}" for text, ranks in texts.items()]
        text = "; ".join(parts) or first.text
    told = [each.part for each in findings.values() if each.part]
    if told and worst == OK:
        text += f" {', '.join(told[:64])}" + (", ..." if len(told) > 64 else "")
    remedies = dict.fromkeys(each.remedy for each in findings.values() if each.remedy)
    return dataclasses.replace(
        first,
        state=worst,
        text=text,
        part="",
        remedy="; ".join(remedies),
        blocks=any(each.blocks for each in findings.values()),
        seconds=max(each.seconds for each in findings.values()),
    )


def _ranks(ranks: Sequence[int]) -> str:
    """Name some ranks: the first four, and how many more."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    more = f" and {len(ranks) - 4} more" if len(ranks) > 4 else ""
    return f"ranks {', '.join(map(str, ranks[:4]))}{more}"


def without_names(text: str, home: str = "", host: str = "", user: str = "") -> str:
    """Take out what a stranger needn't know: the home folder, the machine's and the user's name.

    Args:
        text: anything.
        home, host, user: what to look for; this process's own if empty.

    >>> without_names("/home/ann/x on box7 by ann", "/home/ann", "box7", "ann")
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
    # Every container's user is root, and it is part of other words' meaning.
    ordinary = ("", "root", "localhost")
    for name, instead in ((host, "HOST"), (host.split(".")[0], "HOST"), (user, "USER")):
        if name not in ordinary and len(name) > 1:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", instead, text)
    return text


@dataclass
class Report:
    """All that was found.

    Args:
        facts: label -> what the block begins with: versions, platform, device, launcher, command.
        findings: in the order of the checks.
    """

    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The exit status: 1 if something is broken."""
        return int(any(each.state == BROKEN for each in self.findings))

    def verdict(self) -> list[str]:
        """A short judgement, in lines."""
        named = {
            state: [each.what for each in self.findings if each.state == state] for state in _WORSE
        }
        counts = ", ".join(f"{len(named[state])} {state}" for state in _WORSE if named[state])
        lines = [f"{len(self.findings)} checks: {counts}."]
        if named[BROKEN]:
            lines.append(
                f"Broken: {', '.join(named[BROKEN])}. Begin with the first: what follows it may be "
                "its consequence. If the advice doesn't help, paste the block below into an issue."
            )
        elif "training" in named[OK] + named[SLOW]:
            lines.append("Nothing is broken, and training works.")
        else:
            lines.append("Nothing is broken in what was tried; training wasn't.")
        if named[SLOW]:
            lines.append(f"It works, but see: {', '.join(named[SLOW])}.")
        return lines

    def paste(self) -> str:
        """The block for an issue, without names of people and machines."""
        lines = [f"{label}: {value}" for label, value in self.facts.items()]
        for each in self.findings:
            lines += each.lines()
        return without_names("\n".join([_BEGIN, *lines, _END]))

    def ending(self) -> str:
        """What is printed behind the last line."""
        return "\n".join(["", *self.verdict(), "", self.paste()])

    def as_json(self) -> str:
        """Everything as one JSON object on one line."""
        checks = [
            {key: value for key, value in vars(each).items() if key not in ("blocks", "part")}
            for each in self.findings
        ]
        return json.dumps(_cleaned({"status": self.status, "facts": self.facts, "checks": checks}))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return without_names(value)
    if isinstance(value, dict):
        return {name: _cleaned(each) for name, each in value.items()}
    return [_cleaned(each) for each in value] if isinstance(value, (list, tuple)) else value
