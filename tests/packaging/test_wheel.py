"""What is built, and that it trains where only it is installed."""

from __future__ import annotations

import email
import json
import os
import shutil
import socket
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from mindcv_ghost.config.shipped import list_recipes
from mindcv_ghost.native_prebuilt import LEVELS, LIBRARIES, platform_tag, processor_flags
from mindcv_ghost.weights import list_shipped

from .conftest import ROOT, build, start

BIN = Path(sys.executable).parent
PURE = {"MINDCV_GHOST_PREBUILT": "0"}
# A training that takes seconds: a small network, and nothing to compile but its graph.
NETWORK = ["--config", "ghost_resnet50_digits", "--model", "squeezenet1_1", "--model_args", "null"]
NETWORK += ["--image_resize", "32", "--native_kernels", "false", "--native_loader", "false"]
TRAINING = [*NETWORK, "--num_samples", "64", "--epoch_size", "1", "--warmup_epochs", "0"]
TRAINING += ["--decay_epochs", "1", "--ckpt_save_dir", "run"]
NATIVE = ["--model", "ghost_resnet20_cifar", "--native_kernels", "true", "--native_loader", "true"]


@pytest.fixture(scope="module")
def pure(sources, tmp_path_factory) -> tuple[Path, Path]:
    """A source distribution and the wheel that is built of it, without native libraries."""
    wheel, sdist = build(sources, tmp_path_factory.mktemp("pure") / "dist", **PURE)
    assert (wheel.name[-17:], sdist.suffixes[-2:]) == ("-py3-none-any.whl", [".tar", ".gz"])
    return sdist, wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_twine_finds_nothing_to_object_to(pure):
    start(sys.executable, "-m", "twine", "check", "--strict", *pure, cwd=ROOT)


def test_the_wheel_has_every_recipe_source_and_command(pure):
    names = set(contents(pure[1]))
    for path in list_recipes().values():
        assert f"mindcv_ghost/configs/{path.parent.name}/{path.name}" in names
    for path in (ROOT / "mindcv_ghost").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names
    assert not [name for name in names if name.startswith(("tests", "tools", "configs"))]


def test_metadata_are_complete(pure):
    files = contents(pure[1])
    [name] = [name for name in files if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(files[name])
    assert metadata["Name"] == "mindcv-ghost"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert set(metadata["Requires-Python"].split(",")) == {">=3.9", "<3.13"}
    assert len(metadata.get_all("Project-URL")) >= 2
    supported = [f"Programming Language :: Python :: 3.{minor}" for minor in (9, 10, 11, 12)]
    assert set(supported) <= set(metadata.get_all("Classifier"))
    assert metadata.get_payload().startswith("# mindcv-ghost")
    [name] = [name for name in files if name.endswith("entry_points.txt")]
    assert b"mindcv-ghost = mindcv_ghost.commands.dispatch:main" in files[name]


def test_the_sdist_builds_the_wheel_that_the_repository_builds(pure, sources, tmp_path):
    [direct] = build(sources, tmp_path / "dist", "--wheel", **PURE)
    assert contents(direct) == contents(pure[1])
    with tarfile.open(pure[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    scripts = {"train.py", "validate.py", "export.py", "infer.py"}
    assert {*scripts, "LICENSE", "configs/ghostnet"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.fixture(scope="module")
def installed(pure, tmp_path_factory) -> Path:
    """An environment that has the wheel, and finds this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    [packages] = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps"]
    start(*pip, pure[1], cwd=folder)
    others = [place for place in sys.path if place.endswith("site-packages")]
    (packages / "others.pth").write_text("\n".join(others), encoding="utf-8")
    return folder


def run(installed: Path, cwd: Path, *words: str) -> str:
    environ = {"PATH": f"{installed / 'bin'}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}"}
    environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environ["PYTHONPATH"] = ""
    return start(*words, cwd=cwd, **environ)


def test_an_installation_has_its_recipes_inside(installed, tmp_path):
    code = "import mindcv_ghost; print(mindcv_ghost.__file__)"
    home = Path(run(installed, tmp_path, "python", "-c", code).strip()).parent
    assert installed in home.parents
    run(installed, tmp_path, "mindcv-ghost", "recipes", "--copy", "ghost_resnet50_digits")
    name = "ghost_resnet50_digits.yaml"
    inside = home / "configs" / "ghostnet" / name
    assert (tmp_path / name).read_bytes() == inside.read_bytes()


def test_an_installation_lists_its_weights(installed, tmp_path):
    shipped = [published.card.model for published in list_shipped()]
    head, *rows = run(installed, tmp_path, "mindcv-ghost", "weights").splitlines()
    assert [row.split()[0] for row in rows] == shipped
    assert head.startswith("model " if shipped else "no weights come with this package.")


@pytest.mark.slow
def test_two_ranks_train_and_the_checkpoint_is_validated(installed, tmp_path):
    mpirun = ["mpirun", "--oversubscribe", "-n", "2"]
    run(installed, tmp_path, *mpirun, "mindcv-ghost", "train", *TRAINING)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["ranks"], facts["recipe"]) == (2, "ghost_resnet50_digits.yaml")
    options = [*NETWORK, "--ckpt_path", "run/last.ckpt"]
    out = run(installed, tmp_path, "mindcv-ghost", "validate", *options)
    assert json.loads(out.splitlines()[-1])["images"] == 360


@pytest.mark.slow
@pytest.mark.parametrize("program", ["console", "module"])
def test_msrun_starts_the_command_by_its_path_and_the_module_by_python(
    program, installed, tmp_path
):
    words = [str(installed / "bin" / "mindcv-ghost")]
    if program == "module":
        words = ["python", "-m", "mindcv_ghost"]
    msrun = ["msrun", "--worker_num", "2", "--local_worker_num", "2", "--join", "True"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        msrun += ["--master_port", str(free.getsockname()[1])]
    run(installed, tmp_path, *msrun, *words, "train", *TRAINING)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["ranks"], facts["launcher"]) == (2, "msrun")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_wheel_with_native_libraries_trains_in_an_empty_environment(sources, tmp_path):
    """Everything comes from PyPI; no compiler is on the PATH."""
    if not set(LEVELS["x86-64-v2"]) <= processor_flags():
        pytest.skip("the libraries are for x86-64")
    # Each library is compiled for three processors: five minutes of one core.
    how = {"timeout": 1200, "MINDCV_GHOST_PREBUILT": "1"}
    [wheel] = build(sources, tmp_path / "dist", "--wheel", **how)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "content")
    libraries = tmp_path / "content" / "mindcv_ghost" / "prebuilt"
    assert len(list(libraries.iterdir())) == len(LIBRARIES) * len(LEVELS)
    assert wheel.name.endswith(f"-py3-none-{platform_tag(libraries)}.whl")

    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", f"{wheel}[cpu,mpi,demo]"]
    start(*pip, cwd=tmp_path, timeout=1200)
    programs = tmp_path / "programs"  # what a launcher needs, and no compiler
    programs.mkdir()
    for name in ("sh", "bash", "env", "uname", "ldd", "ls"):
        (programs / name).symlink_to(shutil.which(name))
    environ = {"PATH": f"{python.parent}{os.pathsep}{programs}", "PYTHONPATH": ""}
    environ |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    command = [python.with_name("mpirun"), "--oversubscribe", "-n", "2"]
    command += [python.with_name("mindcv-ghost"), "train", *TRAINING, *NATIVE]
    start(*command, cwd=tmp_path, timeout=600, **environ)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "native operators for" in log and "MindSpore's operators" not in log
    found = {path.name for path in (tmp_path / "cache" / "mindcv_ghost").glob("*/*.so")}
    assert found == {"kernels.so", "images.so"}
    shutil.rmtree(tmp_path / "environment")  # pytest would keep its gigabytes
