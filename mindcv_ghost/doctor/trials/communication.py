"""Checks of MindSpore's communication between ranks: exact to the bit, and how fast."""

from __future__ import annotations

import statistics
import time

import numpy as np

from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, SLOW, CheckResult
from mindcv_ghost.engine.collectives import Collectives

__all__ = ["check_all_reduce", "check_gather_and_broadcast"]

# One count for each size that Collectives sends (it pads with zeros); the last is the largest.
# All are float32: gradients are, under any mixed precision, because the parameters are; Collectives
# packs everything into float32; and sync_bn casts its sums.
_COUNTS = (3, 16_411, 1 << 22)
_REPEATS = 5
# Two ranks in one machine's memory reach 500 MB/s and more on the CPU; a device's link thousands.
_SLOW_MB = {"CPU": 50}
_SLOW_MB_ON_DEVICES = 1000


def check_all_reduce(collectives: Collectives, device: str) -> CheckResult:
    """Add up numbers whose sums are known and exact, and time the largest array.

    Args:
        collectives: to the other ranks; every rank has to call this.
        device: Ascend, GPU or CPU, which sets the threshold of the speed.
    """
    what, size, rank = "AllReduce", collectives.size, collectives.rank
    if size == 1:
        return CheckResult(what, SKIPPED, "only one rank")
    wrong = []
    seconds = []
    for count in _COUNTS:
        pattern = (np.arange(count) % 1009).astype(np.float32)
        # Integers far below 2**24: the sum is exact in any order.
        expected = pattern * size + size * (size - 1) / 2
        for _ in range(_REPEATS if count == _COUNTS[-1] else 1):
            started = time.perf_counter()
            sums = collectives.sum(pattern + rank)
            seconds.append(time.perf_counter() - started)
            bad = np.flatnonzero(sums != expected)
            if bad.size:
                first = int(bad[0])
                wrong.append(
                    f"{bad.size:,} of {count:,} sums are wrong, the first at index {first}: "
                    f"{sums[first]:g} instead of {expected[first]:g}"
                )
                break
    if wrong:
        remedy = "the communication library (HCCL, NCCL, or MindSpore's own) computes wrong sums"
        return CheckResult(what, BROKEN, wrong[0], remedy, blocks=True)
    if rank:
        return CheckResult(what, OK)  # rank 0 reports the speed
    # The first call with a shape compiles an operator, so it isn't timed.
    median = statistics.median(seconds[-_REPEATS + 1 :])
    speed = 4 * _COUNTS[-1] / 1e6 / median
    slow = _SLOW_MB.get(device, _SLOW_MB_ON_DEVICES)
    text = (
        f"float32, {', '.join(f'{count:,}' for count in _COUNTS)} numbers: sums exact; "
        f"{4 * _COUNTS[-1] / 1e6:.0f} MB in {median * 1e3:.0f} ms, {speed:,.0f} MB/s (slow below "
        f"{slow:,})"
    )
    numbers = {"mb_per_second": round(speed, 1), "ms": round(median * 1e3, 2)}
    if speed < slow:
        remedy = "check which network the ranks use (HCCL_IF_IP, NCCL_SOCKET_IFNAME)"
        if device == "CPU":
            remedy = (
                "check what else runs on this host and, with several hosts, which network the "
                "ranks use"
            )
        return CheckResult(what, SLOW, text, remedy, numbers)
    return CheckResult(what, OK, text, numbers=numbers)


def check_gather_and_broadcast(collectives: Collectives) -> CheckResult:
    """Send values that float32 arithmetic would change, and meet at a barrier.

    Args:
        collectives: to the other ranks; every rank has to call this.
    """
    what, size, rank = "gather and broadcast", collectives.size, collectives.rank
    if size == 1:
        return CheckResult(what, SKIPPED, "only one rank")
    # Signed zeros, NaNs with a payload, infinities, the smallest and largest; odd numbers of bytes.
    bits = np.array([0x80000000, 0x7FC12345, 0x7F800000, 1, 0x7F7FFFFF], np.uint32)
    for values in (
        bits.view(np.float32) if rank % 2 else bits[::-1].copy().view(np.float32),
        np.arange(rank, rank + 1001, dtype=np.uint8),
        np.array([rank - 2**62, 2**53 + 1], np.int64),
    ):
        rows = collectives.gather(values)
        gather_is_right = rows[rank].tobytes() == values.tobytes()
        received = collectives.broadcast(values, size - 1)
        broadcast_is_right = received.tobytes() == rows[size - 1].tobytes()
        if not (gather_is_right and broadcast_is_right):
            name = "gather" if broadcast_is_right else "broadcast"
            return CheckResult(what, BROKEN, f"{name} of {values.dtype} changes bits", blocks=True)
    collectives.barrier()
    return CheckResult(
        what, OK, "float32 with NaNs and signed zeros, uint8, int64: every bit arrives"
    )
