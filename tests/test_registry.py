"""The zoo registers in any order of imports and never replaces another package's model."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import mindcv
import mindspore as ms
import pytest
from mindcv.models import registry

import mindcv_ghost
from mindcv_ghost.errors import CheckpointError, ConfigError, UserError
from mindcv_ghost.registry import create_model_by_name, parse_model_args, register_model

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


REGISTERED = "import mindcv; assert len(mindcv.list_models('ghost_resnet*')) == 14;"


@pytest.mark.parametrize(
    "code",
    [
        "import sys, mindcv_ghost\n"
        "assert mindcv_ghost.__version__ and 'create_model' in dir(mindcv_ghost)\n"
        # Alone it is light; a layer loads MindSpore; MindCV loads the models.
        "assert not {'mindspore', 'mindcv', 'numpy'} & set(sys.modules)\n"
        "assert len([n for n in sys.modules if n.startswith('mindcv_ghost')]) <= 4\n"
        "from mindcv_ghost import GhostModule, split_channels\n"
        "assert 'mindcv' not in sys.modules\n"
        "from mindcv_ghost import create_model, list_models\n"
        f"assert 'mindcv_ghost.models' in sys.modules; {REGISTERED}",
        f"import mindcv; assert not mindcv.list_models('ghost_resnet*')\n"
        f"import mindcv_ghost; {REGISTERED}"
        # Reloading is harmless.
        "import importlib, sys; hooks = len(sys.meta_path)\n"
        "from mindcv_ghost import registry\n"
        "from mindcv_ghost.models import ghost_resnet\n"
        "for module in (ghost_resnet, registry, mindcv_ghost, mindcv):\n"
        "    importlib.reload(module)\n"
        f"assert len(sys.meta_path) == hooks; {REGISTERED}"
        "assert ghost_resnet.__all__.count('ghost_resnet50') == 1\n",
        # The models first, which import MindCV themselves.
        f"from mindcv_ghost.models.ghost_resnet import GhostResNet; {REGISTERED}",
    ],
    ids=["ghost first", "mindcv first", "models first"],
)
def test_models_register_in_any_order_of_import(code):
    python(code)


def test_create_model_takes_mindcvs_arguments_and_list_models_is_mindcvs():
    ours = inspect.signature(mindcv_ghost.create_model).parameters
    theirs = inspect.signature(mindcv.create_model).parameters
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]
    assert mindcv_ghost.list_models is mindcv.list_models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "resnet18.ckpt"
    network = mindcv.create_model("resnet18", num_classes=3)
    ms.save_checkpoint(network, str(path))
    return path, {p.name: p.asnumpy() for p in network.get_parameters()}


def test_create_model_loads_a_checkpoint_whole(saved):
    path, weights = saved
    network = mindcv_ghost.create_model("resnet18", 3, checkpoint_path=str(path))
    assert all((p.asnumpy() == weights[p.name]).all() for p in network.get_parameters())


def test_create_model_gives_no_random_weights_for_a_missing_or_unfit_file(saved, tmp_path):
    path, _ = saved
    with pytest.raises(CheckpointError, match="no checkpoint .*none.ckpt"):
        mindcv_ghost.create_model("resnet18", 3, checkpoint_path=str(tmp_path / "none.ckpt"))
    with pytest.raises(CheckpointError, match="doesn't fit the network"):
        mindcv_ghost.create_model("resnet34", 3, checkpoint_path=str(path))
    with pytest.raises(CheckpointError, match="holds no averaged weights"):
        mindcv_ghost.create_model("resnet18", 3, checkpoint_path=str(path), ema=True)
    (tmp_path / "w.pth").write_bytes(b"PK\x03\x04" + bytes(99))
    with pytest.raises(CheckpointError, match="w.pth .*/w.ckpt --model ghost_resnet18"):
        mindcv_ghost.create_model("ghost_resnet18", checkpoint_path=str(tmp_path / "w.pth"))


def test_create_model_passes_everything_else_on(saved):
    path, _ = saved
    with pytest.raises(ValueError, match="mutually exclusive"):
        mindcv_ghost.create_model("resnet18", pretrained=True, checkpoint_path=str(path))
    with pytest.raises(RuntimeError, match="Unknown model resnet1"):
        mindcv_ghost.create_model("resnet1")
    network = mindcv_ghost.create_model("ghost_resnet18", num_classes=3, in_channels=1, ratio=4)
    assert next(network.get_parameters()).shape[1] == 1


@pytest.mark.parametrize("pretrained", [False, True, "pets", Path("pets")])
def test_averaged_weights_are_loaded_from_a_checkpoint_alone(pretrained):
    with pytest.raises(ValueError, match="ema=True .* give it as checkpoint_path"):
        mindcv_ghost.create_model("resnet18", pretrained=pretrained, ema=True)


def test_features_only_gets_the_weights_before_the_classifier_is_taken_off(saved):
    path, weights = saved
    network = mindcv_ghost.create_model(
        "resnet18", 3, checkpoint_path=str(path), features_only=True, out_indices=[1, 2]
    )
    assert network.out_channels == [64, 128]
    values = {p.name: p.asnumpy() for p in network.get_parameters()}
    assert "classifier.weight" not in values and "layer2.0.conv1.weight" in values
    assert all((value == weights[name]).all() for name, value in values.items())


def test_auto_mapping_takes_similar_names_and_must_fit_as_well(saved, tmp_path, capsys):
    _, weights = saved
    renamed = {
        name.replace("classifier", "classifer"): ms.Parameter(ms.Tensor(array))
        for name, array in weights.items()
    }
    path = str(tmp_path / "renamed.ckpt")
    ms.save_checkpoint(renamed, path)
    with pytest.raises(CheckpointError, match=r"classifier.weight \(there is classifer.weight\)"):
        mindcv_ghost.create_model("resnet18", 3, checkpoint_path=path)
    network = mindcv_ghost.create_model("resnet18", 3, checkpoint_path=path, auto_mapping=True)
    loaded = {p.name: p.asnumpy() for p in network.get_parameters()}
    assert (loaded["classifier.weight"] == weights["classifier.weight"]).all()
    assert "classifer.weight" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="auto_mapping finds no names for some weights"):
        mindcv_ghost.create_model("resnet34", 3, checkpoint_path=path, auto_mapping=True)


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'mindcv_ghost' has no attribute 'ghost_resnet7'"):
        _ = mindcv_ghost.ghost_resnet7


def resnet50(pretrained=False, num_classes=1000, in_channels=3, **kwargs):
    """Has the name of a model of MindCV's."""


def ghost_resnet50(pretrained=False, num_classes=1000, in_channels=3, **kwargs):
    """Stands for another plug-in's model, registered first."""


def test_a_name_of_mindcvs_is_refused():
    before = registry.model_entrypoint("resnet50")
    with pytest.raises(UserError, match=r"'resnet50' of .* taken by mindcv.models.resnet;"):
        register_model(resnet50)
    assert registry.model_entrypoint("resnet50") is before


def test_a_name_of_another_plug_in_is_refused(monkeypatch):
    monkeypatch.setitem(registry._model_entrypoints, "ghost_resnet50", ghost_resnet50)
    from mindcv_ghost.models import ghost_resnet as ours

    with pytest.raises(UserError, match=r"mindcv_ghost\.models\.ghost_resnet is already taken by"):
        register_model(ours.ghost_resnet50)
    assert registry.model_entrypoint("ghost_resnet50") is ghost_resnet50


def test_an_unknown_model_is_refused_with_the_most_similar_name():
    message = "there is no model 'ghost_resnet5'; did you mean 'ghost_resnet50'?"
    with pytest.raises(ConfigError, match=re.escape(message)):
        create_model_by_name("ghost_resnet5")


def test_arguments_on_a_command_line_have_the_types_that_they_look_like():
    words = ["deploy=False", "ghost_classifier=no", "ratio=4", "x=None", "act=relu", "a=[3, 4]"]
    assert parse_model_args(words) == {
        **{"deploy": False, "ghost_classifier": False, "ratio": 4},
        **{"x": None, "act": "relu", "a": [3, 4]},
    }


@pytest.mark.parametrize("model_args", [{"ration": 4}, {"num_classes": 5}])
def test_an_argument_that_a_model_cant_take_is_refused(model_args):
    with pytest.raises(ConfigError, match="model resnet18 can't be built with num_classes="):
        create_model_by_name("resnet18", model_args, num_classes=3)
