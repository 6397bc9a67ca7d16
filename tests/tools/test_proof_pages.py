"""The page of the proof says what the records say, and nothing without records."""

from __future__ import annotations

import json

import pytest

from mindcv_ghost.report import ReportError
from mindcv_ghost.weights.finding import Published
from tests.helpers.published import make_card
from tests.tools.test_tables import ROOT
from tools.measure.proof_list import Experiment
from tools.pages import proof as page
from tools.pages.charts import source_digest

WHERE = {"commit": "abc", "date": "2026-11-29T10:00:00+00:00", "hardware": "a CPU, 2 cores"}
WHERE |= {"device": "CPU", "ranks": 1}
COLUMNS = "epoch,step,loss,lr,val_loss,top1,top5,images_per_second,epoch_seconds,compile_seconds"


def write_record(folder, data, row, seed, correct, macs=20_000_000, parameters=140_000, **changes):
    experiment = Experiment(data, row, seed)
    result = {
        **{"kind": "proof", "data": data, "row": row, "seed": seed, "options": []},
        **{"recipe": experiment.recipe, "epochs": 15, "macs": macs, "parameters": parameters},
        **{"correct": correct, "images": 10_000, "top1": correct / 100, "train_seconds": 600.0},
        **{"epoch_seconds": 40.0, "versions": {"mindspore": "2.8.0"}, **WHERE, **changes},
    }
    (folder / f"{experiment.name}.json").write_text(json.dumps(result))
    if result["epochs"]:
        last = f"{result['epochs']},468,0.1,0.0,0.2,{correct / 100},99.5,300.0,40.0,0.0"
        (folder / f"{experiment.name}_metrics.csv").write_text(f"{COLUMNS}\n{last}\n")


def write_times(folder):
    """Times of the main pair: 9 and 7 ms in evaluation, 90 and 60 ms in training."""
    times = {"resnet20": {"32": 9.0}, "ghost_resnet20": {"32": 7.0}}
    steps = {"resnet20": 90.0, "ghost_resnet20": 60.0, "distilled": 150.0}
    result = {"kind": "proof_times", "data": "fashion_mnist", "milliseconds": times, **WHERE}
    result |= {"step_images": 128, "step_milliseconds": steps}
    (folder / "times.json").write_text(json.dumps(result))


@pytest.fixture
def pair(tmp_path):
    """The main pair with three seeds: means of 94.60 and 94.20 %, deviations of 0.10 points."""
    for seed, difference in enumerate((-10, 0, 10)):
        size = {"macs": 40_000_000, "parameters": 280_000}
        write_record(tmp_path, "fashion_mnist", "resnet20", seed, 9460 + difference, **size)
        write_record(tmp_path, "fashion_mnist", "ghost_resnet20", seed, 9420 + difference)
    return tmp_path


def test_without_records_the_page_says_not_run_and_draws_nothing(tmp_path):
    empty = page.read_proof(tmp_path)
    for data, networks in (("cifar10_jpeg", 10), ("fashion_mnist", 6)):
        table = page.data_table(empty, data)
        assert table.count("| not run |") == networks and "%" not in table.replace("Top-1 (%)", "")
    assert page.findings(empty) == "Nothing has been compared yet.\n"
    assert "not measured yet" in page.expectation(empty)
    assert "no figure" in page.chart_text(empty)
    assert "hasn't been measured" in page.summary(empty)
    assert page.main([str(tmp_path), str(tmp_path / "x.png")]) == 0
    assert not list(tmp_path.glob("*.png"))


def test_rows_have_mean_and_spread_over_seeds_and_the_right_answers_of_each(pair):
    table = page.data_table(page.read_proof(pair), "fashion_mnist")
    row = next(line for line in table.splitlines() if line.startswith("| ResNet-20 |"))
    assert "| 0.280 | 40.0 | 94.60 ± 0.10 | 9,450, 9,460, 9,470 | – | – |" in row
    assert "Right answers of 10,000 test images." in table


def test_milliseconds_stand_beside_the_accuracy_and_are_compared(pair):
    write_times(pair)
    proof = page.read_proof(pair)
    table = page.data_table(proof, "fashion_mnist")
    assert "| Training, ms (128 images) | Inference, ms (32 images) |" in table
    assert "| 9,450, 9,460, 9,470 | 90 | 9.00 |" in table
    assert (
        "with 0.50 of the operations, 0.50 of the parameters, 0.67 of the time of a training step "
        "and 0.78 of the time of an evaluated batch."
    ) in page.findings(proof)


def test_a_longer_training_has_the_times_of_its_network(pair):
    write_times(pair)
    write_record(pair, "fashion_mnist", "resnet20_long", 0, 9500, epochs=45)
    assert "| 45 | 0.140 | 20.0 | 95.00 | 9,500 | 90 | 9.00 |" in page.data_table(
        page.read_proof(pair), "fashion_mnist"
    )


def test_the_teacher_s_cost_is_a_step_with_it_against_one_without(pair):
    write_times(pair)
    assert "hasn't been measured" in page.teacher_cost(page.read_proof(pair))
    teacher = {"memory_bytes": 167_000_000}
    write_record(pair, "fashion_mnist", "distilled", 0, 9430, teacher=teacher)
    assert page.teacher_cost(page.read_proof(pair)) == (
        "On Fashion-MNIST a step of 128 images takes 150 ms with the teacher, which evaluates "
        "each batch, and 60 ms without: 2.5 times as long. The teacher took 167 MB of the runs' "
        "memory.\n"
    )


def test_predictions_stand_beside_what_came_out(pair):
    write_record(pair, "cifar10_jpeg", "random_1", 0, 5000, epochs=1, options=["--epoch_size", 1])
    write_record(pair, "cifar10_jpeg", "fit_1", 0, 7500, epochs=1, options=["--epoch_size", 1])
    table = page.predictions(page.read_proof(pair))
    assert "| Fashion-MNIST | ResNet-20 | 94.5 | 94.60 ± 0.10 |" in table
    pair_row = "| Fashion-MNIST | Ghost-ResNet-20, s = 2, d = 1 minus ResNet-20 | -0.3 | -0.40 |"
    assert pair_row in table
    assert "from random weights after 1 epoch | above 0 | +25.00 |" in table
    assert "| CIFAR-10 as JPEG | ResNet-20 | 91.0 | not run |" in table


def test_the_findings_have_difference_confidence_interval_and_missed_goals(pair):
    text = page.findings(page.read_proof(pair))
    assert (
        "**Does a Ghost network keep its parent's accuracy at half the operations?**\n\n"
        "- Fashion-MNIST: **No.** Ghost-ResNet-20, s = 2, d = 1 is 0.40 points below ResNet-20, "
        "with 0.50 of the operations and 0.50 of the parameters. The difference's 95 % confidence "
        # 0.4 -+ 2.776 * sqrt(2 * 0.1 ** 2 / 3): Student's t of 4 degrees of freedom.
        "interval, from 3 seeds each, is -0.63 to -0.17 points." in text
    )
    assert "within 0.3 points of its parent's mean: 0.40 points below, **missed**." in text
    assert "at 94.5 % or better after 15 epochs: 94.60 %, met." in text
    assert "CIFAR-10 as JPEG" not in text


@pytest.mark.parametrize(
    ("parent", "ghost", "found"),
    [(9387, 9357, "0.30 points below, met"), (9380, 9400, "0.20 points above, met")],
)
def test_a_goal_that_is_just_met_is_met(tmp_path, parent, ghost, found):
    write_record(tmp_path, "fashion_mnist", "resnet20", 0, parent)
    write_record(tmp_path, "fashion_mnist", "ghost_resnet20", 0, ghost)
    assert f"its parent's mean: {found}." in page.findings(page.read_proof(tmp_path))


def test_a_run_on_two_machines_tells_the_cores_of_both(tmp_path):
    changes = {"hardware": "a CPU, 1 core, then a CPU, 2 cores"}
    write_record(tmp_path, "fashion_mnist", "resnet20", 0, 9000, **changes)
    summary = page.recipe_summary(
        page.read_proof(tmp_path), "ghost_resnet20_cifar_s1_fashion_mnist.yaml"
    )
    assert summary["epoch_seconds"] == "40.0 (1 core, then 2 cores)"


@pytest.mark.parametrize(
    ("thin", "answer"),
    [
        ((9350, 9360, 9370), "**Yes.** Ghost-ResNet-20, s = 2, d = 1 is 0.60 points above"),
        ((9410, 9420, 9425), "**No clear difference.** Ghost-ResNet-20, s = 2, d = 1 is 0.02"),
        ((9480, 9490, 9500), "**No.** Ghost-ResNet-20, s = 2, d = 1 is 0.70 points below"),
    ],
)
def test_a_question_is_answered_where_the_confidence_interval_excludes_no_difference(
    pair, thin, answer
):
    for seed, correct in enumerate(thin):
        write_record(pair, "fashion_mnist", "thin", seed, correct)
    assert f"- Fashion-MNIST: {answer}" in page.findings(page.read_proof(pair))


def test_a_fitted_start_is_compared_with_the_random_one_of_its_seed(pair):
    for seed, correct in ((0, 9410), (1, 9300)):
        write_record(pair, "cifar10_jpeg", "ghost_resnet20", seed, correct)
    write_record(pair, "cifar10_jpeg", "fit_15", 0, 9440)
    assert (
        "is 0.30 points above Ghost-ResNet-20 from random weights after 15 epochs (one seed each"
    ) in page.findings(page.read_proof(pair))


def test_a_difference_of_single_seeds_has_no_confidence_interval(pair):
    write_record(pair, "fashion_mnist", "s3", 0, 9300)
    text = page.findings(page.read_proof(pair))
    assert "s = 3 is 1.20 points below" in text
    assert "(one seed against the mean of 3: no confidence interval)." in text


def test_fitted_and_random_starts_stand_beside_each_other(pair):
    for epochs, correct in ((0, 8000), (1, 9100), (15, 9440)):
        row = f"fit_{epochs}"
        write_record(pair, "cifar10_jpeg", row, 0, correct, epochs=epochs)
    write_record(pair, "cifar10_jpeg", "ghost_resnet20", 0, 9410)
    write_record(pair, "cifar10_jpeg", "random_1", 0, 8500, epochs=1, options=["--epoch_size", 1])
    table = page.fit_table(page.read_proof(pair))
    assert "| CIFAR-10 as JPEG | fitted to ResNet-20 | 80.00 | 91.00 | not run | 94.40 |" in table
    # The fourth is the plain row's.
    assert "| CIFAR-10 as JPEG | random | – | 85.00 | not run | 94.10 |" in table


def test_the_fitted_starts_table_has_seed_0_alone(pair):
    write_record(pair, "cifar10_jpeg", "ghost_resnet20", 1, 9410)
    assert "94.10" not in page.fit_table(page.read_proof(pair))


def test_the_quick_trial_s_expectation_comes_from_its_records(tmp_path):
    for seed, correct in enumerate((8900, 9000, 9100)):
        changes = {"epochs": 2, "train_seconds": 70.0 + seed}
        write_record(tmp_path, "fashion_mnist", "quick", seed, correct, **changes)
    assert page.expectation(page.read_proof(tmp_path)) == (
        "Expect 90.00 ± 1.00 % top-1 (mean and standard deviation of 3 seeds) after 70 to 72 s of "
        "training on a CPU, 2 cores."
    )


def test_a_recipe_s_own_runs_fill_the_model_page(pair):
    recipe = "ghost_resnet20_cifar_fashion_mnist.yaml"
    write_record(pair, "fashion_mnist", "random_1", 0, 8500, options=["--epoch_size", 1])
    summary = page.recipe_summary(page.read_proof(pair), recipe)
    assert (summary["top1"], summary["seeds"]) == ("94.20 ± 0.10", 3)
    assert (summary["epoch_seconds"], summary["hours"]) == ("40.0 (2 cores)", "0.17 (2 cores)")
    assert (summary["context"], summary["top5"]) == ("CPUx1-G", "99.50 ± 0.00")
    assert (summary["inference"], summary["published"]) == ("–", None)
    assert page.recipe_summary(page.read_proof(pair), "other.yaml") is None


def test_the_model_page_links_the_weights_of_a_recipe_s_runs(pair, monkeypatch):
    recipe = "ghost_resnet20_cifar_fashion_mnist.yaml"
    run = {"recipe": recipe, "seed": 1, "commit": "abc", "date": WHERE["date"]}
    published = Published(pair / "fashion_mnist", make_card(training=run))
    monkeypatch.setattr(page, "list_shipped", lambda: [published])
    proof = page.read_proof(pair)
    assert page.recipe_summary(proof, recipe)["published"] is published
    run["commit"] = "of another run"
    assert page.recipe_summary(proof, recipe)["published"] is None


def test_the_figure_has_every_network_and_the_digest_of_its_records(pair, monkeypatch):
    write_record(pair, "fashion_mnist", "distilled", 0, 9430)
    write_times(pair)
    figures = []
    monkeypatch.setattr(page, "save_chart", lambda figure, png, folder: figures.append(figure))
    page.draw_chart(pair, pair / "x.png")
    left, right = figures[0].axes
    # The taught network has operations and time of the untaught one.
    for axes, places in ((left, [40.0, 20.0, 20.0]), (right, [9.0, 7.0, 7.0])):
        drawn = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
        assert drawn == pytest.approx(places)
        assert [bars.has_yerr for bars in axes.containers] == [True, True, False]
        markers = [bars.lines[0].get_marker() for bars in axes.containers]
        assert len(set(markers)) == 3
    page.draw_summary(pair, pair / "x.png")
    (summary,) = figures[1].axes
    assert [text.get_text() for text in summary.texts] == ["ResNet-20", "Ghost-ResNet-20"]
    monkeypatch.undo()
    assert page.main([str(pair), str(pair / "x.png")]) == 0
    for name in ("x.png", "x_summary.png"):
        assert (pair / name).read_bytes().endswith(source_digest(pair).encode())
    before = source_digest(pair)
    write_record(pair, "fashion_mnist", "thin", 0, 9400)
    assert source_digest(pair) != before


def test_the_summary_has_the_main_pair_of_each_data_set(pair):
    text = page.summary(page.read_proof(pair))
    assert "of 3 seeds" in text and "CIFAR-10" not in text
    assert (
        "- Fashion-MNIST: Ghost-ResNet-20 **94.20 ± 0.10 %** top-1 with 0.50 of the operations of "
        "ResNet-20, which has **94.60 ± 0.10 %**.\n"
    ) in text
    write_record(pair, "cifar10_jpeg", "resnet20", 0, 9000)
    assert "CIFAR-10" not in page.summary(page.read_proof(pair))
    write_record(pair, "cifar10_jpeg", "ghost_resnet20", 0, 8900)
    text = page.summary(page.read_proof(pair))
    assert "- CIFAR-10 as JPEG: Ghost-ResNet-20 **89.00 %**" in text and "1 or 3 seeds" in text
    assert "thinner" not in text and "5x5" not in text
    write_record(pair, "cifar10_jpeg", "thin", 0, 8950)
    text = page.summary(page.read_proof(pair))
    assert "as many operations as the Ghost network has **89.50 %**.\n" in text
    write_record(pair, "cifar10_jpeg", "d5", 0, 8960)
    text = page.summary(page.read_proof(pair))
    assert " With cheap kernels of 5x5 the Ghost network has **89.60 %** (1 seed).\n" in text


@pytest.mark.parametrize("change", [{"kind": "guess"}, {"row": "resnet18"}])
def test_a_record_of_something_else_is_named(pair, change):
    path = next(pair.glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ReportError, match=path.name):
        page.read_proof(pair)


def test_published_numbers_are_labelled_with_their_sources(tmp_path):
    table = {"title": "On digits", "columns": ["Network", "Error (%)"], "rows": [["A-20", "4.39"]]}
    tables = [{**table, "source": "A paper."}, {**table, "source": "Another."}]
    result = {"kind": "proof_published", "tables": tables}
    (tmp_path / "published.json").write_text(json.dumps(result))
    one, other = page.published_tables(page.read_proof(tmp_path)).split("**On digits**")[1:]
    assert "| A-20 | 4.39 |" in one and "\nSource: A paper.\n" in one
    assert "| A-20 | 4.39 |" in other and "\nSource: Another.\n" in other


def test_the_figures_of_this_project_are_those_of_its_records():
    records = ROOT / "results" / "proof"
    assert "no figure" not in page.chart_text(page.read_proof(records))
    for name in ("proof.png", "proof_summary.png"):
        assert (ROOT / "docs" / name).read_bytes().endswith(source_digest(records).encode())
