"""Which devices MindSpore finds, asked in a process of its own, and which of them a rank takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mindcv_ghost.doctor.findings import BROKEN, OK, Finding
from mindcv_ghost.launch.environment import VISIBLE_DEVICES, with_package_path, without_launcher

__all__ = ["ask_mindspore", "found", "visible"]

_REMEDIES = {
    "Ascend": "source CANN's set_env.sh, see that `npu-smi info` shows the devices, and that this "
    "MindSpore is the one for this CANN",
    "GPU": "see that `nvidia-smi` shows the devices, and that CUDA is the one that this MindSpore "
    "was built for",
}
# Loading MindSpore where a driver doesn't fit may crash or hang the process that does it. Output
# of MindSpore's own may come first, so the answer has a mark.
_MARK = "doctor found "
_QUESTION = f"""
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


def ask_mindspore(
    python: Sequence[str] = (sys.executable, "-c", _QUESTION), seconds: float = 240
) -> tuple[dict, str]:
    """Load MindSpore and MindCV in another process, and ask for devices.

    Args:
        python: the command; for tests.
        seconds: to wait.

    Returns:
        What was found (empty if it failed), and what MindSpore said of devices that it can't use,
        or why it failed.
    """
    environ = with_package_path(without_launcher(os.environ))
    environ["GLOG_v"] = "2"  # at this level MindSpore says why a device can't be had
    try:
        done = subprocess.run(
            python,
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
            return json.loads(line[len(_MARK) :]), _complaint(done.stderr)
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    if done.returncode < 0:
        return {}, f"loading MindSpore ended with signal {-done.returncode}"
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return {}, (errors or lines or ["loading MindSpore failed without a message"])[-1].strip()


def _complaint(stderr: str) -> str:
    """Which library a device's plug-in misses, in MindSpore's words."""
    missing = re.search(r"\w\S*: cannot open shared object file[^\n]*", stderr)
    if missing:
        return missing[0]
    said = re.search(r"Error message: ([^\n]+)", stderr)
    return said[1].strip() if said else ""


def found(answer: Mapping, said: str, device: str, environ: Mapping[str, str]) -> Finding:
    """Judge what :func:`ask_mindspore` returned.

    Args:
        answer, said: what it returned.
        device: what was asked for: Ascend, GPU, CPU or auto.
        environ: with the variables that hide devices.
    """
    what = "devices"
    if not answer:
        remedy = "try `python -c 'import mindspore, mindcv'`, and see mindspore.cn/install"
        return Finding(what, BROKEN, said, remedy, blocks=True)
    parts = []
    for name, devices in answer["devices"].items():
        if devices:
            model, memory = devices[0]
            size = f" of {memory / 1e9:.0f} GB" if memory else ""
            parts.append(f"{len(devices)} {name}{f' ({model})' if model else ''}{size}")
    parts.append("the CPU")
    text = f"MindSpore {answer['version']} finds {' and '.join(parts)}"
    hidden = visible(environ)
    text += f"; {hidden}" if hidden else ""
    numbers = {"devices": {name: len(each) for name, each in answer["devices"].items()}}
    if device in answer["devices"] and not answer["devices"][device]:
        why = answer.get("errors", {}).get(device) or said
        text += f"; no {device}" + (f": {why}" if why else "")
        remedy = _REMEDIES[device]
        return Finding(what, BROKEN, text, remedy, numbers, blocks=True)
    return Finding(what, OK, text, numbers=numbers)


def visible(environ: Mapping[str, str]) -> str:
    """Name the variables that choose among the devices, with their values.

    >>> visible({"CUDA_VISIBLE_DEVICES": "0,1"})
    'CUDA_VISIBLE_DEVICES=0,1'
    """
    names = [name for group in VISIBLE_DEVICES.values() for name in group if name in environ]
    return ", ".join(f"{name}={environ[name]}" for name in names)
