"""A trained Ghost network, exported to a web page: the browser's classes are infer.py's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.browser import chromium, needs_browser, served

from .conftest import Scripts, recipe

PREDICTED = """async (names) => {
  const {Network, readFacts} = await import('./network.js');
  const {decode} = await import('./pixels.js');
  const network = await Network.load(await readFacts(), () => {});
  const found = {};
  for (const name of names) {
    const picture = await decode(await (await fetch(name)).blob());
    const {probabilities} = await network.classify(picture);
    found[name] = network.best(probabilities, 6);
  }
  return found;
}"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_browser_predicts_three_validation_images_as_infer_does(images, tmp_path):
    needs_browser()
    scripts = Scripts(tmp_path)
    options = recipe(images, model="ghost_resnet20_cifar", epoch_size=3, lr=0.02)
    scripts.train(*options, "--ckpt_save_dir", "run", timeout=600)
    words = ["--config", "run/config.yaml", "--ckpt_path", "run/best.ckpt", "--output", "out"]
    scripts.script("export.py", *words, "--web", "site", "--triton", "models", timeout=400)
    assert (tmp_path / "models" / "ghost_resnet20_cifar" / "config.pbtxt").is_file()

    pictures = [
        images / "val" / name / f"{name}_{k:03d}"
        for name, k in (("ant", 1), ("cat", 1), ("fox", 0))
    ]
    paths = [next(path.parent.glob(f"{path.name}.*")) for path in pictures]
    command = ["infer.py", *paths, "--model", "out/ghost_resnet20_cifar.onnx", "--json"]
    done = scripts.script(*command, "--topk", "6")
    rows = [json.loads(line) for line in done.out.splitlines()]
    expected = {Path(row["image"]).name: row["predictions"] for row in rows}
    for path in paths:
        (tmp_path / "site" / path.name).write_bytes(path.read_bytes())
    with chromium() as browser, served(tmp_path / "site") as (address, _):
        page = browser.new_page()
        page.goto(address)
        found = page.evaluate(PREDICTED, [path.name for path in paths])
    for name, predictions in expected.items():
        assert [p["label"] for p in found[name]] == [p["label"] for p in predictions]
        for ours, theirs in zip(found[name], predictions):
            assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-4)
    assert len(expected) == 3
