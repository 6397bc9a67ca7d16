"""What must hold of the records of a run that has ended as it should."""

from __future__ import annotations

from .rules import broken

__all__ = ["all_reduce_shapes", "calls", "check", "ends"]


def calls(record: list[dict], *names: str) -> list[dict]:
    """A record's entries of these kinds, in order; cells' calls also by the cell's name."""
    return [e for e in record if e["call"] in names or (e["call"] == "cell" and e["cell"] in names)]


def ends(records: list[list[dict]]) -> list[dict]:
    """What each rank held when its training had ended."""
    return [calls(record, "end")[-1] for record in records]


def all_reduce_shapes(record: list[dict]) -> set[tuple]:
    """Data types and shapes that cells were called with which only talk to other ranks."""
    found = calls(record, "_AllReduceSum")
    return {(kind, tuple(shape)) for entry in found for kind, shape in entry["inputs"]}


def check(records: list[list[dict]]) -> None:
    """No rule was broken, nothing is still sent, and all ranks have called alike.

    Raises:
        FakeDeviceError: names what is wrong.
    """
    for record in records:
        for entry in calls(record, "broken"):
            raise broken(entry["rule"], entry["what"])
        sent, released = calls(record, "send"), calls(record, "release")
        if len(sent) != len(released) or not all(entry["ended"] for entry in released):
            raise broken("sending ends", f"{len(sent)} senders, {released}")
        if sent and len(calls(record, "stop_send")) != len(sent):
            raise broken("sending ends", "stop_send is missing")
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
            raise broken("ranks call alike", what)
