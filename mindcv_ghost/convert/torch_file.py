"""PyTorch's weight files as arrays: ``.safetensors`` without PyTorch, ``.pth`` with it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.atomic_file import write_bytes

__all__ = ["SUFFIXES", "read_torch_file", "write_torch_file"]

_PICKLED = (".pth", ".pt", ".bin", ".tar")
SUFFIXES = (".safetensors", *_PICKLED)
# Where training scripts put the weights in what they save; the first that is there.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema")


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote (``.pth``, ``.pt``, ``.bin``,
            ``.pth.tar``): a state dict, or a dictionary that holds one as ``state_dict``, ``model``
            or ``state_dict_ema``. A ``module.`` before all names is taken off.

    Returns:
        name -> array.

    Raises:
        CheckpointError: if it can't be read, or needs PyTorch and there is none.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'not there'}")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name[len("module.") :]: array for name, array in tensors.items()}
    return tensors


def write_torch_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a state dict as a whole or not at all; the suffix decides on the form.

    Raises:
        CheckpointError: if PyTorch is needed and there is none, or the file can't be written.
    """
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        data = save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    else:
        torch = _torch(path)
        buffer = io.BytesIO()
        torch.save({n: torch.from_numpy(np.array(a)) for n, a in tensors.items()}, buffer)
        data = buffer.getvalue()
    try:
        write_bytes(path, data)
    except OSError as problem:
        raise CheckpointError(f"{path} can't be written: {problem}") from problem


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        # NumPy has no bfloat16: safetensors then fails with a KeyError or TypeError of its own.
        raise CheckpointError(
            f"{path} can't be read as safetensors of numbers that NumPy has: {problem}"
        ) from problem


def _pickled(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(path)
    try:
        # Numbers only: a pickle could run any code.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        lines = str(problem).splitlines() or [type(problem).__name__]
        raise CheckpointError(
            f"{path} can't be read as weights alone (weights_only=True): {lines[0]}. A file that "
            f"holds more than tensors has to be saved anew: torch.save(model.state_dict(), ...)"
        ) from problem
    return {name: _array(path, name, tensor) for name, tensor in _state_dict(path, loaded).items()}


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
        f"{path} holds {kind}, not a state dict or one of its usual wrappers "
        f"({', '.join(_WRAPPERS)})"
    )


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    if not hasattr(tensor, "detach"):
        raise CheckpointError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor")
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy hasn't; float32 holds all its numbers
        tensor = tensor.float()
    return tensor.detach().cpu().numpy()


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError as problem:
        raise CheckpointError(
            f"{path.suffix} files are PyTorch's own and need it: "
            f"pip install 'mindcv-ghost[torch]'. For .safetensors files it isn't needed."
        ) from problem
    return torch
