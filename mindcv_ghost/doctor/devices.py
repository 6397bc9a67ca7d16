"""Which devices MindSpore finds; a child process loads MindSpore, so that a crash is a result."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mindcv_ghost.doctor.report import BROKEN, OK, CheckResult
from mindcv_ghost.launch.environment import VISIBLE_DEVICES, with_package_path, without_launcher

__all__ = ["check_devices", "query_mindspore", "visible_devices"]

_REMEDIES = {
    "Ascend": "source CANN's set_env.sh, check that `npu-smi info` shows the devices, and that "
    "this MindSpore was built for this CANN",
    "GPU": "check that `nvidia-smi` shows the devices, and that this MindSpore was built for "
    "this CUDA",
}
# With an incompatible driver, loading MindSpore may crash or hang the process. The answer is marked
# because MindSpore may print something before it.
_MARK = "doctor found "
_QUERY = f"""
import json
import mindcv
import mindspore
from mindcv_ghost import compat
found = {{"version": mindspore.__version__, "mindcv": mindcv.__version__, "devices": {{}}}}
for name in ("Ascend", "GPU"):
    count = compat.device_count(name)
    problem = compat.driver_problem(name)
    if problem:
        found.setdefault("errors", {{}})[name] = problem
    found["devices"][name] = memories = []
    for number in range(count):
        try:
            properties = mindspore.hal.get_device_properties(number, name)
            memories.append([str(properties.name), int(properties.total_memory)])
        except Exception:
            memories.append(["", 0])
print({_MARK!r} + json.dumps(found), flush=True)
import os
os._exit(0)
"""


def query_mindspore(
    command: Sequence[str] = (sys.executable, "-c", _QUERY), seconds: float = 240
) -> tuple[dict, str]:
    """Load MindSpore and MindCV in another process, and list the devices.

    Args:
        command: the process's command line; for tests.
        seconds: time limit.

    Returns:
        The answer (empty if the query failed), and MindSpore's message about a device that it can't
        use, or the reason of the failure.
    """
    environ = with_package_path(without_launcher(os.environ))
    environ["GLOG_v"] = "2"  # warnings say why a device can't be used
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environ,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return {}, f"loading MindSpore didn't end within {seconds:.0f} s"
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return json.loads(line[len(_MARK) :]), _warning(done.stderr)
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    if done.returncode < 0:
        return {}, f"loading MindSpore ended with signal {-done.returncode}"
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return {}, (errors or lines or ["loading MindSpore failed without a message"])[-1].strip()


def _warning(stderr: str) -> str:
    """Extract MindSpore's message about a device's plug-in, such as a missing library."""
    missing = re.search(r"\w\S*: cannot open shared object file[^\n]*", stderr)
    if missing:
        return missing[0]
    message = re.search(r"Error message: ([^\n]+)", stderr)
    return message[1].strip() if message else ""


def check_devices(
    answer: Mapping, message: str, device: str, environ: Mapping[str, str]
) -> CheckResult:
    """Check that the wanted device is there.

    Args:
        answer: from :func:`query_mindspore`.
        message: from :func:`query_mindspore`.
        device: the wanted one: Ascend, GPU, CPU or auto.
        environ: environment variables; some of them hide devices.
    """
    what = "devices"
    if not answer:
        remedy = "run `python -c 'import mindspore, mindcv'`, and see mindspore.cn/install"
        return CheckResult(what, BROKEN, message, remedy, blocks=True)
    parts = []
    for name, devices in answer["devices"].items():
        if devices:
            model, memory = devices[0]
            size = f" of {memory / 1e9:.0f} GB" if memory else ""
            parts.append(f"{len(devices)} {name}{f' ({model})' if model else ''}{size}")
    parts.append("the CPU")
    text = f"MindSpore {answer['version']} finds {' and '.join(parts)}"
    visible = visible_devices(environ)
    text += f"; {visible}" if visible else ""
    numbers = {"devices": {name: len(each) for name, each in answer["devices"].items()}}
    if device in answer["devices"] and not answer["devices"][device]:
        why = answer.get("errors", {}).get(device) or message
        text += f"; no {device}" + (f": {why}" if why else "")
        remedy = _REMEDIES[device]
        return CheckResult(what, BROKEN, text, remedy, numbers, blocks=True)
    return CheckResult(what, OK, text, numbers=numbers)


def visible_devices(environ: Mapping[str, str]) -> str:
    """Format the variables that restrict which devices are visible.

    >>> visible_devices({"CUDA_VISIBLE_DEVICES": "0,1"})
    'CUDA_VISIBLE_DEVICES=0,1'
    """
    names = [name for group in VISIBLE_DEVICES.values() for name in group if name in environ]
    return ", ".join(f"{name}={environ[name]}" for name in names)
