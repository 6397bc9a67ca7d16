"""A kept graph gives the same bits as a new compilation, or it isn't used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import compile_uncached
from mindcv_ghost.engine.graphs import cache as graph_cache
from mindcv_ghost.engine.graphs import key as graph_key
from mindcv_ghost.engine.graphs.cache import GraphCache, graph_folder
from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
from mindcv_ghost.engine.step import NetworkWithLoss, TrainStep

from ..networks import CrossEntropy, Linear, batch
from ..test_exact_resume import make, outcome, resume, stop_at

pytestmark = pytest.mark.usefixtures("graph_mode")


class Scaled(nn.Cell):
    """``x -> x * w * factor``, with a number, a constant tensor and an operator's attribute."""

    def __init__(self, factor: float = 2.0, constant: float = 0.0, axis: int = 0, weight=1.0):
        super().__init__()
        self.factor = factor
        self.constant = ms.Tensor([constant], ms.float32)
        self.concat = ops.Concat(axis)
        self.w = ms.Parameter(ms.Tensor([weight], ms.float32), "w")

    def construct(self, x):
        return self.concat((x * self.w * self.factor + self.constant, x))


class Masked(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=0.5)

    def construct(self, x):
        return self.dropout(x)


X = ms.Tensor(np.arange(4, dtype=np.float32).reshape(2, 2))


def make_cache(folder, **facts) -> GraphCache:
    return GraphCache(folder, facts, Collectives())


def run(folder, cell: nn.Cell, x=X, **facts) -> tuple[bool, np.ndarray]:
    found = make_cache(folder, **facts).compile(cell, x)
    return found, cell(x).asnumpy()


def expected(factor=2.0, constant=0.0, axis=0, weight=1.0) -> np.ndarray:
    return np.concatenate((X.asnumpy() * weight * factor + constant, X.asnumpy()), axis)


def test_a_second_cell_uses_the_graph_of_the_first_with_its_own_weights(tmp_path):
    found, _ = run(tmp_path, Scaled(weight=1.0))
    again, values = run(tmp_path, Scaled(weight=7.0))
    assert (found, again) == (False, True)
    np.testing.assert_array_equal(values, expected(weight=7.0))


@pytest.mark.parametrize("other", [{"factor": 3.0}, {"constant": 5.0}, {"axis": 1}], ids=str)
def test_what_is_compiled_into_the_graph_is_part_of_the_key(tmp_path, other):
    run(tmp_path, Scaled())
    found, values = run(tmp_path, Scaled(**other))
    assert not found
    np.testing.assert_array_equal(values, expected(**other))


def test_a_changed_source_setting_shape_or_variable_needs_a_new_compilation(tmp_path, monkeypatch):
    run(tmp_path, Scaled(), lr=0.1)
    assert run(tmp_path, Scaled(), lr=0.1)[0]
    assert not run(tmp_path, Scaled(), lr=0.2)[0]
    assert not run(tmp_path, Scaled(), ms.Tensor(np.ones((3, 2), np.float32)), lr=0.1)[0]
    with monkeypatch.context() as patch:
        patch.setenv("MS_DEV_SOMETHING", "1")
        assert not run(tmp_path, Scaled(), lr=0.1)[0]
    monkeypatch.setattr(graph_key, "sources_digest", lambda: "other")
    assert not run(tmp_path, Scaled(), lr=0.1)[0]


FACTOR = 2.0


class OfModule(nn.Cell):
    shift = 1.0

    def construct(self, x):
        return x * FACTOR + self.shift


def test_constants_of_the_module_and_the_class_are_part_of_the_key(tmp_path, monkeypatch):
    assert run(tmp_path, OfModule())[1][1, 1] == 7.0
    assert run(tmp_path, OfModule())[0]
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3.0)
    found, values = run(tmp_path, OfModule())
    assert not found and values[1, 1] == 10.0
    monkeypatch.setattr(OfModule, "shift", 5.0)
    found, values = run(tmp_path, OfModule())
    assert not found and values[1, 1] == 14.0


def test_the_sources_are_this_package_mindcv_and_the_users_modules():
    import mindcv  # noqa: F401

    sources = graph_key._sources()
    assert "mindcv_ghost/layers/ghost_module.py" in sources
    assert "mindcv/models/resnet.py" in sources
    assert sources[__name__] == Path(__file__)
    assert not any(name.startswith(("mindspore", "numpy", "json")) for name in sources)


def test_an_unreadable_module_gets_a_new_digest_each_time(monkeypatch):
    monkeypatch.setattr(graph_key, "_sources", lambda: {"gone": Path("/nowhere/gone.py")})
    assert graph_key.sources_digest() != graph_key.sources_digest()


def test_graphs_with_random_operators_are_not_kept(tmp_path):
    for _ in range(2):
        cell = Masked()
        cell.set_train()
        assert not make_cache(tmp_path).compile(cell, X)
    assert list(tmp_path.iterdir()) == []


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def as_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        as_folder,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b"\0" * 5000),
        lambda path: path.unlink(),
    ],
    ids=["bit", "folder", "empty", "cut", "zeros", "gone"],
)
def test_instead_of_a_damaged_graph_the_cell_is_compiled(tmp_path, damage):
    run(tmp_path, Scaled())
    (entry,) = tmp_path.glob("*.graph")
    damage(entry)
    found, values = run(tmp_path, Scaled(weight=3.0))
    assert not found
    np.testing.assert_array_equal(values, expected(weight=3.0))
    assert run(tmp_path, Scaled())[0] == (damage is not as_folder)  # a folder has the entry's name


def test_instead_of_a_graph_that_mindspore_refuses_the_cell_is_compiled(tmp_path):
    run(tmp_path, Scaled())
    (entry,) = tmp_path.glob("*.graph")
    make_cache(tmp_path)._keep(entry, b"\x0a\x03abc", run=1)
    found, values = run(tmp_path, Scaled(weight=3.0))
    assert not found
    np.testing.assert_array_equal(values, expected(weight=3.0))


def test_without_a_cache_folder_the_cell_is_compiled(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    found, values = run(tmp_path / "file" / "graphs", Scaled())
    assert not found
    np.testing.assert_array_equal(values, expected())


def test_a_program_without_a_file_compiles_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache.api, "entry_script_path", str(tmp_path / "-c"))
    for _ in range(2):
        found, values = run(tmp_path, Scaled())
        assert not found
        np.testing.assert_array_equal(values, expected())
    assert list(tmp_path.rglob("*.graph")) == []


def test_without_a_temporary_folder_the_cell_is_compiled(tmp_path, monkeypatch):
    run(tmp_path, Scaled())

    def refuse(_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "_process_exchange", refuse)
        found, values = run(tmp_path, Scaled(weight=3.0))
    assert not found
    np.testing.assert_array_equal(values, expected(weight=3.0))
    monkeypatch.setattr(graph_cache.Path, "write_bytes", refuse)
    found, values = run(tmp_path, Scaled(weight=3.0))
    assert not found
    np.testing.assert_array_equal(values, expected(weight=3.0))


def test_nothing_is_kept_if_the_user_has_enabled_mindspores_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    cache = make_cache(tmp_path / "graphs")
    monkeypatch.delenv("MS_COMPILER_CACHE_ENABLE")
    assert not cache.compile(Scaled(), X)
    assert not (tmp_path / "graphs").exists()


def test_nothing_is_kept_on_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    usage = graph_cache.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(graph_cache.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert not run(tmp_path, Scaled())[0]
    assert list(tmp_path.glob("*")) == []


def test_a_graph_cut_by_a_full_disk_is_detected(tmp_path):
    run(tmp_path, Scaled())
    (entry,) = tmp_path.glob("*.graph")
    graph, _ = graph_cache._read(entry)
    assert graph_cache._is_whole(graph)
    assert not any(graph_cache._is_whole(graph[:end]) for end in (0, 1, 100, len(graph) - 1))


def test_the_least_recently_used_graphs_are_removed_first(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "_MAX_GRAPHS", 2)
    for factor in (2.0, 3.0, 2.0, 4.0):
        run(tmp_path, Scaled(factor))
    assert len(list(tmp_path.glob("*.graph"))) == 2
    assert run(tmp_path, Scaled(2.0))[0]


def test_a_graph_that_another_process_has_just_removed_is_no_failure(tmp_path, caplog):
    (tmp_path / "listed_but_gone.graph").symlink_to(tmp_path / "gone")
    run(tmp_path, Scaled())
    assert caplog.messages == []
    assert run(tmp_path, Scaled())[0]


@pytest.mark.parametrize("others", [0, 12345], ids=["none", "another run's"])
def test_ranks_use_kept_graphs_only_if_all_have_one_of_the_same_run(tmp_path, others):
    class Joined(Collectives):
        """Another rank has no graph, or one that another run has written."""

        def gather(self, values):
            return np.stack([values, np.array(others, values.dtype)])

    run(tmp_path, Scaled())
    assert not GraphCache(tmp_path, {}, Joined()).compile(Scaled(), X)
    assert run(tmp_path, Scaled())[0]


def test_the_folder_is_taken_from_the_environment(monkeypatch):
    monkeypatch.setenv("MINDCV_GHOST_GRAPHS", "/a/b")
    assert graph_folder() == Path("/a/b")
    monkeypatch.delenv("MINDCV_GHOST_GRAPHS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert graph_folder() == Path("/x/mindcv_ghost/graphs")


def losses(compile, lr: float, count: int = 5) -> list[float]:
    network = Linear()
    optimizer = create_optimizer(network, OptimizerSettings("momentum"), [lr] * 50, "CPU")
    step = TrainStep(NetworkWithLoss(network, CrossEntropy(), exact=True), optimizer)
    step.set_train()
    inputs = batch(8)
    compile(step, *inputs)
    values = [float(step(*inputs)[0].asnumpy()) for _ in range(count)]
    return [*values, *network.classifier.weight.asnumpy().ravel().tolist()]


def test_a_step_from_the_cache_gives_the_same_losses_and_weights(tmp_path):
    plain = losses(compile_uncached, 0.1)
    found = []

    def compile(cell, *inputs):
        found.append(make_cache(tmp_path).compile(cell, *inputs))

    assert [losses(compile, 0.1) for _ in range(2)] == [plain, plain]
    assert found == [False, True]


def test_a_resumed_run_with_kept_graphs_ends_like_an_uninterrupted_one_without(tmp_path):
    (tmp_path / "whole").mkdir()
    whole, _ = make(tmp_path / "whole")
    whole.run()
    wanted = outcome(whole, tmp_path / "whole")
    cache = make_cache(tmp_path / "graphs")
    found = []

    def compile(cell, *inputs):
        found.append(cache.compile(cell, *inputs))
        return found[-1]

    for number, place in enumerate([(0, 3), (2, 0)]):
        folder = tmp_path / f"stopped{number}"
        folder.mkdir()
        trainer, _ = make(folder)
        trainer.compile = compile
        stop_at(trainer, place)
        trainer.run()
        trainer = resume(folder)
        trainer.compile = compile
        trainer.run()
        assert outcome(trainer, folder) == wanted
    assert found[:2] == [False, False] and all(found[2:]) and len(found) == 8


COUNTED = """
import os, sys
os.environ.update(MS_COMPILER_CACHE_ENABLE="1", MS_COMPILER_CACHE_PATH=sys.argv[1], GLOG_v="3")
import numpy as np, mindspore as ms
from mindspore import nn
class Scaled(nn.Cell):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor
    def construct(self, x):
        return x * self.factor
ms.set_context(mode=ms.GRAPH_MODE)
print(float(Scaled(float(sys.argv[2]))(ms.Tensor(1.0)).asnumpy()))
"""


@pytest.mark.slow
def test_mindspores_own_cache_gives_a_cell_another_cells_graph(tmp_path):
    """Why there is a key at all; when this fails, MindSpore's own cache may be good enough."""
    script = tmp_path / "script.py"
    script.write_text(COUNTED)
    told = [
        subprocess.run(
            [sys.executable, script, tmp_path / "cache", factor],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        ).stdout.strip()
        for factor in ("2", "3")
    ]
    assert told == ["2.0", "2.0"]  # the second should be 3.0
