"""A file's names are a network's weights, an optimizer's state, or neither; never by a list."""

from __future__ import annotations

import pytest

from mindcv_ghost.storage.weight_names import AmbiguousNames, select_weights

WEIGHTS = {
    "conv1.weight": (4, 3, 3, 3),
    "layer1.conv1.weight": (8, 4, 3, 3),
    "bn1.gamma": (4,),
    "bn1.beta": (4,),
    "classifier.weight": (2, 8),
}
STATISTICS = {"bn1.moving_mean": (4,), "bn1.moving_variance": (4,)}
NETWORK = {**WEIGHTS, **STATISTICS}


def under(prefix: str, shapes=NETWORK) -> dict:
    return {prefix + name: shape for name, shape in shapes.items()}


def select(*parts: dict, needed=NETWORK, trained=WEIGHTS):
    stored = {name: shape for part in parts for name, shape in part.items()}
    return select_weights(stored, needed, list(trained))


def kept(selection) -> set[str]:
    return set(selection.names.values())


@pytest.mark.parametrize("prefix", ["adam_m.", "an_optimizer_of_next_year.", "mu_"])
def test_a_prefix_before_every_trained_weight_is_an_optimizers_state(prefix):
    found = select(NETWORK, under(prefix, WEIGHTS))
    assert kept(found) == set(NETWORK)
    assert (found.prefixes, found.state) == ((), len(WEIGHTS))


def test_a_state_may_have_other_shapes():
    rows = {f"exp_avg_sq_row_{name}": shape[:-1] or (1,) for name, shape in WEIGHTS.items()}
    assert kept(select(NETWORK, rows)) == set(NETWORK)


def test_an_optimizer_of_the_classifier_alone_is_one_too():
    found = select(NETWORK, {"moments.classifier.weight": (2, 8), "global_step": (1,)})
    assert (kept(found), found.state) == (set(NETWORK), 2)


@pytest.mark.parametrize(
    "name",
    [
        "layer2.conv1.weight",  # ends with a name of the network, and isn't under a prefix
        "layer1.conv1.conv1.weight",
        "layer1.classifier.weight",
        "neck.weight",
        "neck.bn.gamma",
    ],
)
def test_a_layer_of_another_network_isnt_taken_for_a_state(name):
    assert name in kept(select(NETWORK, {name: WEIGHTS["conv1.weight"]}))
    assert name in kept(select(under("network."), {f"network.{name}": WEIGHTS["conv1.weight"]}))
    # Nor is it where the other network's trainer saved everything.
    state = {**under("moments.", WEIGHTS), f"moments.{name}": (4, 3, 3, 3), "global_step": (1,)}
    found = select(NETWORK, {name: WEIGHTS["conv1.weight"]}, state)
    assert kept(found) == {*NETWORK, name}


def test_a_trainers_numbers_and_rates_are_its_state():
    numbers = {"global_step": (1,), "scale_sense": (), "learning_rate": (900,), "opt.beta1": ()}
    assert select(NETWORK, numbers).state == 4
    rates = {"optimizer.learning_rate.learning_rate": (900,)}
    assert select(NETWORK, under("optimizer.moments.", WEIGHTS), rates).state == 1 + len(WEIGHTS)
    # A bias of a cell that nobody knows isn't one.
    assert "neck.bias" in kept(select(NETWORK, {"neck.bias": (8,)}))


@pytest.mark.parametrize(
    "prefix", ["network.", "_backbone.", "backbone.network.", "module.", "model.", "0."]
)
def test_a_prefix_before_all_names_is_taken_off(prefix):
    found = select(
        under(prefix),
        under(f"moments.{prefix}", WEIGHTS),  # the optimizer was made after the wrapping cell,
        under("adam_v.", WEIGHTS),  # or before it
        {"learning_rate": (900,)},
    )
    assert found.names == {prefix + name: name for name in NETWORK}
    assert (found.prefixes, found.state) == ((prefix,), 2 * len(WEIGHTS) + 1)


@pytest.mark.parametrize("statistics", ["", "network."])
def test_a_cell_with_the_optimizer_renames_the_trained_weights_alone(statistics):
    found = select(
        under("optimizer.", WEIGHTS),
        under(statistics, STATISTICS),
        under("optimizer.adam_m.", WEIGHTS),
        under("grad_accumulation.optimizer.", WEIGHTS),
        {"optimizer.global_step": (1,), "optimizer.learning_rate.learning_rate": (900,)},
    )
    assert kept(found) == set(NETWORK)
    assert found.prefixes == tuple(filter(None, ("optimizer.", statistics)))
    assert found.state == 2 * len(WEIGHTS) + 2


def test_the_plain_names_win():
    found = select(NETWORK, under("network."), under("swap."))
    assert found.names.keys() == NETWORK.keys()


def test_a_second_weight_of_the_same_name_isnt_taken_for_the_first():
    found = select(under("network."), {"conv1.weight": WEIGHTS["conv1.weight"]})
    assert found.names["network.conv1.weight"] == "conv1.weight"
    assert found.names["conv1.weight"] == "conv1.weight (a second one)"


def test_a_copy_of_a_copy_is_no_candidate():
    found = select(under("network."), under("teacher.network."), under("network.saved."))
    assert found.prefixes == ("network.",)


def test_two_prefixes_that_both_fit_are_an_error():
    with pytest.raises(AmbiguousNames) as caught:
        select(under("network."), under("_backbone."), under("moments.network.", WEIGHTS))
    assert caught.value.prefixes == ("_backbone.", "network.")


def test_of_two_prefixes_that_whose_shapes_fit_is_taken():
    other = {name: (7, *shape[1:]) for name, shape in NETWORK.items()}
    assert select(under("network."), under("student.", other)).prefixes == ("network.",)


def test_without_statistics_an_optimizers_copies_arent_taken_for_weights():
    found = select(
        under("network.", WEIGHTS),
        under("adam_m.", WEIGHTS),
        under("adam_v.", WEIGHTS),
        needed=WEIGHTS,
    )
    assert (found.prefixes, found.state) == (("network.",), 2 * len(WEIGHTS))
    alone = select(under("adam_m.", WEIGHTS), needed=WEIGHTS)
    assert not kept(alone) & set(WEIGHTS)


def test_another_networks_file_keeps_its_differences_without_the_prefix():
    other = {**NETWORK, "layer2.conv1.weight": (8, 8, 3, 3)}
    del other["classifier.weight"]
    found = select(under("network.", other))
    assert kept(found) == set(other)
    assert found.prefixes == ("network.",)
    assert kept(select(other)) == set(other)


def test_100_000_hostile_names_take_seconds_at_most():
    names = {("a.b_" * 100) + f"{n}.conv1.weight": (4, 3, 3, 3) for n in range(50_000)}
    names.update({f"{n}.conv1.weight": (4, 3, 3, 3) for n in range(50_000)})
    needed = {"conv1.weight": (4, 3, 3, 3)}
    with pytest.raises(AmbiguousNames):
        select(names, needed=needed, trained=needed)
