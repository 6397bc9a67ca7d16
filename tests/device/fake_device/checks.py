"""Checks of a run's records."""

from __future__ import annotations

from .rules import violation

__all__ = ["all_reduce_shapes", "calls", "check_records", "final_states"]


def calls(record: list[dict], *names: str) -> list[dict]:
    """Select a record's entries by the call's name; calls of cells also by the cell's name."""
    return [e for e in record if e["call"] in names or (e["call"] == "cell" and e["cell"] in names)]


def final_states(records: list[list[dict]]) -> list[dict]:
    """Return each rank's state at the end of its training."""
    return [calls(record, "end")[-1] for record in records]


def all_reduce_shapes(record: list[dict]) -> set[tuple]:
    """Return data types and shapes of the all-reduces outside of the training step."""
    found = calls(record, "_AllReduceSum")
    return {(kind, tuple(shape)) for entry in found for kind, shape in entry["inputs"]}


def check_records(records: list[list[dict]]) -> None:
    """Check that no rule was violated, senders have ended, and all ranks made the same calls.

    Raises:
        RuleViolation: names the rule.
    """
    for record in records:
        for entry in calls(record, "violation"):
            raise violation(entry["rule"], entry["what"])
        sent, released = calls(record, "send"), calls(record, "release")
        if len(sent) != len(released) or not all(entry["ended"] for entry in released):
            raise violation("senders are released", f"{len(sent)} senders, {released}")
        if sent and len(calls(record, "stop_send")) != len(sent):
            raise violation("senders are released", "stop_send is missing")
    collective = [
        [
            (entry["cell"], entry["phase"], entry["inputs"])
            for entry in calls(record, "cell")
            if entry["collective"]
        ]
        for record in records
    ]
    for rank, own in enumerate(collective):
        if own != collective[0]:
            first = next(
                (k for k, pair in enumerate(zip(own, collective[0])) if pair[0] != pair[1]),
                min(len(own), len(collective[0])),
            )
            what = f"rank {rank} and rank 0 differ at their collective number {first}"
            raise violation("ranks make the same calls", what)
