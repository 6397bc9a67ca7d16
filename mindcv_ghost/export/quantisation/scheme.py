"""Which integers stand for weights and activations: chosen for the runtime and the processor."""

from __future__ import annotations

import platform
from collections.abc import Set
from dataclasses import dataclass

from mindcv_ghost.errors import UserError, did_you_mean
from mindcv_ghost.native_prebuilt import processor_flags

__all__ = ["RUNTIMES", "Scheme", "choose_scheme"]

RUNTIMES = ("onnxruntime", "openvino")
"""The runtimes that a scheme can be chosen for."""

# Linux's names of the instructions that add four products of bytes without saturating.
_VNNI = ("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8")
_ARM = ("aarch64", "arm64")


@dataclass(frozen=True)
class Scheme:
    """How numbers become bytes. Weights are int8 and symmetric.

    Args:
        activation: "uint8" or "int8", with one scale and zero point a tensor.
        reduce_range: weights are within -64 to 64: two products of bytes then fit into 16 bits.
        per_channel: weights have a scale for each filter, not one a layer.
    """

    activation: str = "uint8"
    reduce_range: bool = False
    per_channel: bool = True

    def __str__(self) -> str:
        name = "U8S8" if self.activation == "uint8" else "S8S8"
        name += " per channel" if self.per_channel else " per tensor"
        return f"{name}, reduced range" if self.reduce_range else name


def choose_scheme(
    runtime: str, flags: Set[str] | None = None, machine: str | None = None
) -> Scheme:
    """Choose the scheme that is fastest without losing accuracy to saturation.

    On x86 activations are uint8 for both runtimes. ONNX Runtime 1.32 leaves int8 activations in
    float32 there and is slower than without quantisation; OpenVINO 2026.4 computes them no faster
    than uint8, and less exactly (docs/int8.md has the measurements). Without VNNI both
    runtimes add pairs of products in 16 bits, which overflow unless the weights' range is reduced.

    Args:
        runtime: one of :data:`RUNTIMES`.
        flags: the processor's instruction sets by Linux's names; None for this machine's.
        machine: as ``platform.machine()`` says, which is the default.

    Raises:
        UserError: if the runtime isn't known.

    >>> str(choose_scheme("onnxruntime", {"avx2"}, "x86_64"))
    'U8S8 per channel, reduced range'
    """
    if runtime not in RUNTIMES:
        raise UserError(
            f"int8 for the runtime {runtime!r} isn't known; legal are {', '.join(RUNTIMES)}"
            f"{did_you_mean(runtime, RUNTIMES)}"
        )
    if (machine or platform.machine()).lower() in _ARM:
        # ONNX Runtime's advice in quantize_static's docstring (1.32); it wasn't measured here.
        return Scheme("int8")
    flags = processor_flags() if flags is None else flags
    return Scheme("uint8", reduce_range=not any(name in flags for name in _VNNI))
