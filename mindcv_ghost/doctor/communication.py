"""What ranks tell each other by MindSpore: right to the bit, and how fast."""

from __future__ import annotations

import statistics
import time

import numpy as np

from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, SLOW, Finding
from mindcv_ghost.engine.collectives import Collectives

__all__ = ["all_reduce", "exchange"]

# One count for each size that Collectives sends (it fills up with zeros), and its largest piece.
# All are float32: gradients are, under any mixed precision, because the parameters are; so is what
# Collectives packs whatever it sends into; and sync_bn casts its sums.
_SIZES = (3, 16_411, 1 << 22)
_TIMES = 5
# Two ranks in one machine's memory reach 500 and more on the CPU; a device's link thousands.
_SLOW_MB = {"CPU": 50}
_SLOW_MB_ON_DEVICES = 1000


def all_reduce(collectives: Collectives, device: str) -> Finding:
    """Add up numbers whose sums are known and exact, and time the largest."""
    what, size, rank = "AllReduce", collectives.size, collectives.rank
    if size == 1:
        return Finding(what, SKIPPED, "one rank has nobody to add to")
    wrong = []
    seconds = []
    for count in _SIZES:
        pattern = (np.arange(count) % 1009).astype(np.float32)
        # Whole numbers far below 2**24: every order of adding gives the same.
        expected = pattern * size + size * (size - 1) / 2
        for _ in range(_TIMES if count == _SIZES[-1] else 1):
            started = time.perf_counter()
            got = collectives.sum(pattern + rank)
            seconds.append(time.perf_counter() - started)
            bad = np.flatnonzero(got != expected)
            if bad.size:
                first = int(bad[0])
                wrong.append(
                    f"{bad.size:,} of {count:,} sums are wrong, the first at {first}: "
                    f"{got[first]:g} for {expected[first]:g}"
                )
                break
    if wrong:
        remedy = "the ranks' communication (HCCL, NCCL, or MindSpore's own) computes nonsense here"
        return Finding(what, BROKEN, wrong[0], remedy, blocks=True)
    if rank:
        return Finding(what, OK)  # rank 0 tells the speed
    # The first of a shape compiles an operator.
    best = statistics.median(seconds[-_TIMES + 1 :])
    speed = 4 * _SIZES[-1] / 1e6 / best
    least = _SLOW_MB.get(device, _SLOW_MB_ON_DEVICES)
    text = (
        f"float32, {', '.join(f'{count:,}' for count in _SIZES)} numbers: sums exact; "
        f"{4 * _SIZES[-1] / 1e6:.0f} MB in {best * 1e3:.0f} ms, {speed:,.0f} MB/s (slow below "
        f"{least:,})"
    )
    numbers = {"mb_per_second": round(speed, 1), "ms": round(best * 1e3, 2)}
    if speed < least:
        remedy = "see which network the ranks take (HCCL_IF_IP, NCCL_SOCKET_IFNAME)"
        if device == "CPU":
            remedy = "see what else runs on this host, and on several which network the ranks take"
        return Finding(what, SLOW, text, remedy, numbers)
    return Finding(what, OK, text, numbers=numbers)


def exchange(collectives: Collectives) -> Finding:
    """Gather and broadcast what float32 arithmetic would spoil, and meet at a barrier."""
    what, size, rank = "gather and broadcast", collectives.size, collectives.rank
    if size == 1:
        return Finding(what, SKIPPED, "one rank has nobody to tell")
    # Signed zeros, NaNs with a payload, infinities, the smallest and largest; odd numbers of bytes.
    bits = np.array([0x80000000, 0x7FC12345, 0x7F800000, 1, 0x7F7FFFFF], np.uint32)
    for values in (
        bits.view(np.float32) if rank % 2 else bits[::-1].copy().view(np.float32),
        np.arange(rank, rank + 1001, dtype=np.uint8),
        np.array([rank - 2**62, 2**53 + 1], np.int64),
    ):
        rows = collectives.gather(values)
        mine = rows[rank].tobytes() == values.tobytes()
        told = collectives.broadcast(values, size - 1).tobytes() == rows[size - 1].tobytes()
        if not (mine and told):
            name = "gather" if told else "broadcast"
            return Finding(what, BROKEN, f"{name} of {values.dtype} changes bits", blocks=True)
    collectives.barrier()
    return Finding(what, OK, "float32 with NaNs and signed zeros, uint8, int64: every bit arrives")
