"""Check that this package's C++ builds and passes its self-test, where a training would use it."""

from __future__ import annotations

from mindcv_ghost.data.native import library as loader
from mindcv_ghost.doctor.report import OK, SKIPPED, SLOW, CheckResult
from mindcv_ghost.doctor.trials.session import TrialSession
from mindcv_ghost.kernels import library as kernels
from mindcv_ghost.native_build import Unavailable

__all__ = ["check_native_code"]


def check_native_code(session: TrialSession) -> CheckResult:
    """Build the operators and the image loader, or find them built."""
    what, config = "native code", session.config
    available, missing = [], []
    if session.device == "CPU" and config.system.native_kernels:
        try:
            kernels.load(kernels.threads_for(session.world.local_size))
            available.append("operators")
        except Unavailable as reason:
            missing.append(f"operators: {reason}")
    if config.dataset.native_loader:
        try:
            loader.load()
            available.append("image loader")
        except Unavailable as reason:
            missing.append(f"image loader: {reason}")
    if missing:
        text = f"MindSpore's own are used, which are slower; {'; '.join(missing)}"
        remedy = (
            "install a C++17 compiler, or set native_kernels and native_loader to false to use "
            "MindSpore's"
        )
        return CheckResult(what, SLOW, text, remedy)
    if not available:
        return CheckResult(what, SKIPPED, "the recipe or the device doesn't use it")
    return CheckResult(what, OK, f"{' and '.join(available)} built and tested")
