"""The tables of docs/int8.md, from what ``tools.measure.int8`` recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.pages import markdown

__all__ = [
    "int8_kinds_table",
    "int8_networks_table",
    "int8_schemes_table",
    "int8_trials_table",
]

Result = Mapping[str, Any]


def int8_networks_table(result: Result) -> str:
    """Return a row per network: accuracy, size, and what stayed in float32."""
    if not result["networks"]:
        return f"{markdown.NOT_MEASURED}\n"
    head = ("Network", "float32, top-1 %", "int8, top-1 %", "same label, %", "SQNR, dB")
    head += ("calibration", "layers in float32", "MB", "per tensor, top-1 %", "per tensor, dB")
    rows = []
    for each in result["networks"]:
        record, coarse = each["record"], each["per_tensor"]
        before, after = each["bytes_float32"] / 1e6, each["bytes_int8"] / 1e6
        rows.append(
            (
                f"`{each['model']}`",
                f"{record['top1_float32']:.2f}",
                f"{record['top1_int8']:.2f}",
                f"{each['agreement']:.2f}",
                f"{each['sqnr_db']:.1f}",
                record["calibration"],
                f"{len(record['excluded'])} of {each['layers']}",
                f"{before:.1f} -> {after:.1f}",
                f"{coarse['top1']:.2f}",
                f"{coarse['sqnr_db']:.1f}",
            )
        )
    scheme = result["networks"][0]["record"]["scheme"]
    images = result["networks"][0]["images"]
    note = (
        f"{scheme}; {result['calibration_images']} calibration images; top-1 of {images} held-out "
        f"digits, {100 / images:.2f} points each. {_provenance(result)}"
    )
    return f"{markdown.table(head, rows)}\n{note}\n"


def int8_trials_table(result: Result) -> str:
    """Return a row per trial of the network in which most layers stayed in float32."""
    if not result["networks"]:
        return f"{markdown.NOT_MEASURED}\n"
    each = max(result["networks"], key=lambda each: len(each["record"]["excluded"]))
    head = ("Calibration", "layers in float32", "top-1 %", "SQNR, dB")
    rows = [
        (t["method"], t["excluded"], f"{t['accuracy']:.2f}", f"{t['sqnr_db']:.1f}")
        for t in each["trials"]
    ]
    before = each["record"]["top1_float32"]
    note = f"`{each['model']}`, {before:.2f} % in float32, in the order in which they were tried."
    return f"{markdown.table(head, rows)}\n{note}\n"


def int8_kinds_table(result: Result) -> str:
    """Return a row per network and kind of layer: what int8 costs it alone."""
    if not result["networks"]:
        return f"{markdown.NOT_MEASURED}\n"
    head = ("Network", "kind of layer", "layers", "median, dB", "worst, dB")
    head += ("per tensor: median", "worst")
    rows = []
    for each in result["networks"]:
        for kind in sorted(each["kinds"], key=lambda kind: kind["median_db"]):
            rows.append(
                (
                    f"`{each['model']}`",
                    kind["kind"],
                    kind["layers"],
                    f"{kind['median_db']:.1f}",
                    f"{kind['worst_db']:.1f}",
                    _decibels(kind["per_tensor_median_db"]),
                    _decibels(kind["per_tensor_worst_db"]),
                )
            )
    return markdown.table(head, rows)


def int8_schemes_table(result: Result) -> str:
    """Return a row per runtime and scheme: time of an image, and noise."""
    if not result["schemes"]:
        return f"{markdown.NOT_MEASURED}\n"
    head = ("Network", "runtime", "scheme", "ms an image", "times as fast as float32", "SQNR, dB")
    rows = []
    for part in result["schemes"]:
        for row in part["rows"]:
            runtime = f"{part['runtime']}{', AVX2 alone' if part['isa'] else ''}"
            ratio = f"{row['ratio']:.2f}" if row["ratio"] >= 1 else f"**{row['ratio']:.2f}**"
            cells = (row["scheme"], f"{row['ms']:.1f}", ratio, _decibels(row["sqnr_db"]))
            rows.append((f"`{part['model']}`", runtime, *cells))
    note = (
        f"One image of 224x224, {result['threads']} threads, medians of rounds in "
        f"turn; noise of the logits of the held-out digits. {_provenance(result)}"
    )
    return f"{markdown.table(head, rows)}\n{note}\n"


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _provenance(result: Result) -> str:
    return (
        f"{result['hardware']}; {result['versions']}; commit `{result['commit']}`, "
        f"{result['date'][:10]}."
    )
