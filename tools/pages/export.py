"""The table of docs/export.md: how each family of networks gets to ONNX."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from tools.measure.export_families import EQUAL, agrees, summarise
from tools.pages.markdown import NOT_MEASURED

__all__ = ["EXPORT_HEAD", "export_rows", "export_sentence", "export_failures"]

EXPORT_HEAD = (
    "family", "network", "pixels", "MindSpore's exporter", "this package's", "any size", "nodes",
    "ms",
)  # fmt: skip
_REFUSED = "Can not find key "
_REASON = 140  # characters of an error; MindSpore's go on for lines


def export_rows(result: Mapping[str, Any]) -> list[tuple]:
    """Return a row a network.

    Args:
        result: ``results/export.json``.
    """
    return [
        (
            row["family"],
            f"`{row['model']}`",
            row["image_size"],
            _cell(row, row.get("mindspore")),
            _cell(row, row.get("difference")),
            _size(row),
            row.get("nodes", "–"),
            row.get("milliseconds", "–"),
        )
        for row in result["rows"]
    ]


def _cell(row: Mapping[str, Any], found: float | str | None) -> str:
    """A difference, or in a word why there is none."""
    if "cannot_run" in row:
        return "doesn't run in MindSpore"
    if isinstance(found, float):
        return f"{found:.0e}" if agrees(found) else f"**{found:.0e}**"
    if found is None:
        return "no answer" if "stopped" in row else "refuses"
    if found.startswith(_REFUSED):
        return f"refuses {found[len(_REFUSED) :].split(' ')[0]}"
    return "refuses"


def _size(row: Mapping[str, Any]) -> str:
    found = row.get("any_size")
    if found is None:
        return "–"
    return "yes" if agrees(found) else "no"


def export_sentence(result: Mapping[str, Any]) -> str:
    """Return how many families are exported, and how that was measured."""
    if not result["rows"]:
        return f"{NOT_MEASURED}\n"
    counts, versions = summarise(result["rows"]), result["versions"]
    total = counts["run"]
    ours, theirs = (f"{counts[n]} ({counts[n] / total:.0%})" for n in ("ours", "mindspore"))
    software = ", ".join(
        f"{name} {versions[package]}"
        for name, package in (
            *(("MindSpore", "mindspore"), ("MindCV", "mindcv"), ("onnx", "onnx")),
            ("ONNX Runtime", "onnxruntime"),
        )
    )
    times = result.get("hardware_of_times", result["hardware"])
    timed = f" The times are of {times}." if times != result["hardware"] else ""
    return (
        f"Of {counts['families']} families, {total} run in MindSpore. Of these, {ours} are "
        f"exported and agree with MindSpore's logits to {EQUAL:.0e} of the largest; by MindSpore's "
        f"own exporter, {theirs}. {result['hardware']}, {software}; commit `{result['commit']}`."
        f"{timed}\n"
    )


def export_failures(result: Mapping[str, Any]) -> str:
    """Return what stands in the way of each network that isn't exported, as a list."""
    lines = []
    for row in result["rows"]:
        told = row.get("cannot_run") or row.get("ours") or row.get("stopped") or ""
        reason = textwrap.shorten(told, _REASON, placeholder=" ...")
        if "cannot_run" in row:
            lines.append(f"- `{row['model']}` doesn't run in MindSpore: {reason}")
        elif not agrees(row.get("difference")):
            lines.append(f"- `{row['model']}`: {reason or 'the logits differ'}")
    return "\n".join(lines) + "\n" if lines else "None.\n"
