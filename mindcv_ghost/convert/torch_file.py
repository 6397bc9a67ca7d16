"""Read and write PyTorch's weight files: ``.safetensors`` without PyTorch, ``.pth`` with it.

``.safetensors`` files are read where MindSpore's are, in ``storage``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_ghost.errors import CheckpointError, first_line
from mindcv_ghost.storage.atomic_file import write_bytes

__all__ = ["PICKLED", "SUFFIXES", "read_pickled", "write_torch_file"]

PICKLED = (".pth", ".pt", ".bin", ".tar")
SUFFIXES = (".safetensors", *PICKLED)
# Keys under which training scripts save the weights, in the order of preference.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")


def read_pickled(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict that ``torch.save`` wrote.

    Args:
        path: a file (``.pth``, ``.pt``, ``.bin``, ``.pth.tar``) with a state dict, or with a
            dictionary that has one under a key such as ``state_dict`` or ``model``.

    Returns:
        name -> array.

    Raises:
        CheckpointError: if the file can't be read, or PyTorch isn't installed.
    """
    if not os.path.isfile(path):  # Path's is_file raises for a name that is too long
        kind = "is a folder" if os.path.isdir(path) else "does not exist"
        raise CheckpointError(f"{path} {kind}")
    torch = _torch(path)
    try:
        # weights_only, because unpickling anything else could run any code.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise CheckpointError(
            f"{path} can't be read as weights only (weights_only=True): {first_line(problem)}. "
            "If the file contains more than tensors, save it again with "
            "torch.save(model.state_dict(), ...)"
        ) from problem
    return {name: _array(path, name, tensor) for name, tensor in _state_dict(path, loaded).items()}


def write_torch_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a state dict atomically, in the format that the suffix names.

    Raises:
        CheckpointError: if PyTorch is needed and isn't installed, or the file can't be written.
    """
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        data = save({name: np.asarray(array, order="C") for name, array in tensors.items()})
    else:
        torch = _torch(path)
        buffer = io.BytesIO()
        torch.save({n: torch.from_numpy(np.array(a)) for n, a in tensors.items()}, buffer)
        data = buffer.getvalue()
    try:
        write_bytes(path, data)
    except OSError as problem:
        raise CheckpointError(f"{path} can't be written: {problem}") from problem


def _state_dict(path: Path, loaded: Any) -> dict:
    if isinstance(loaded, dict):
        for wrapper in _WRAPPERS:
            if isinstance(loaded.get(wrapper), dict):
                return loaded[wrapper]
        if loaded and all(hasattr(value, "detach") for value in loaded.values()):
            return loaded
    kind = (
        f"a dictionary of {', '.join(map(str, list(loaded)[:5]))}"
        if isinstance(loaded, dict)
        else type(loaded).__name__
    )
    raise CheckpointError(
        f"{path} contains {kind}, not a state dict or a dictionary with one under "
        f"{', '.join(_WRAPPERS)}"
    )


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    if not hasattr(tensor, "detach"):
        raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor")
    if str(tensor.dtype) == "torch.bfloat16":  # not in NumPy; float32 has all its values
        tensor = tensor.float()
    return tensor.detach().cpu().numpy()


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as problem:
        raise CheckpointError(
            f"reading or writing {path.suffix} files needs PyTorch: "
            f"pip install 'mindcv-ghost[torch]'. .safetensors files don't need it."
        ) from problem
    return torch
