"""The web page in Chromium: what it computes, what people see, and that it asks nobody else."""

from __future__ import annotations

import base64
import io
import json
import shutil
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image, ImageCms

from mindcv_ghost.export.web import write_web_page
from mindcv_ghost.export.web.npm_package import FILES
from mindcv_ghost.inference.classifier import Classifier
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.preprocessing import preprocess
from mindcv_ghost.inference.resize import INTERPOLATIONS
from tests.helpers.browser import chromium, served
from tests.helpers.digits_onnx import (
    DESCRIPTION,
    NAMES,
    PREPROCESSING,
    digits,
    write_digits_onnx,
)

READY = "html[data-ready]"
# Tells every text that the status line had.
RECORD = """
  window.said = [];
  document.addEventListener('DOMContentLoaded', () => {
    const status = document.getElementById('status');
    new MutationObserver(() => said.push(status.textContent)).observe(status, {childList: true});
  });
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits #1.onnx"  # a name that an address can't have
    write_digits_onnx(path)
    return path


@pytest.fixture(scope="module")
def site(browser, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    write_web_page(folder, model)
    with served(folder) as (address, asked):
        yield SimpleNamespace(folder=folder, address=address, asked=asked)


@pytest.fixture(scope="module")
def page(browser, site):
    """The page, loaded; ``page.seen`` has its requests and problems."""
    page = open_page(browser, site.address)
    page.wait_for_selector(READY)
    yield page
    page.context.close()


def open_page(browser, address: str, **options):
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(20_000)
    page.seen = SimpleNamespace(requests=[], problems=[])
    page.context.on("request", lambda request: page.seen.requests.append(request.url))
    page.on("console", lambda m: m.type == "error" and page.seen.problems.append(m.text))
    page.on("pageerror", lambda error: page.seen.problems.append(str(error)))
    page.add_init_script(RECORD)
    page.goto(address)
    return page


def drop(page, path: Path) -> None:
    """Drag a file over the page and drop it, as the operating system tells it to the browser."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 200, "data": data})
    session.detach()


def shown(page) -> list[tuple[str, float]]:
    """Wait for the classes of the last picture; return labels and percentages."""
    page.wait_for_selector("#answer[aria-busy=false] #classes li")
    rows = page.locator("#classes li")
    labels = rows.locator(".label").all_inner_texts()
    shares = rows.locator(".share").all_inner_texts()
    return [(label, float(share.split()[0])) for label, share in zip(labels, shares)]


def test_dropped_validation_images_get_the_classes_of_the_classifier_and_no_request_leaves(
    page, site, model, tmp_path
):
    images, labels = digits(held_out=True)
    classifier = Classifier(model)
    for k, suffix in enumerate((".png", ".jpg", ".png")):
        path = tmp_path / f"{k}{suffix}"
        images[k].save(path)
        drop(page, path)
        found, expected = shown(page), classifier(path)
        assert [label for label, _ in found] == [p.label for p in expected]
        assert found[0][0] == NAMES[labels[k]]
        for (_, share), prediction in zip(found, expected):
            assert abs(share - 100 * prediction.probability) <= 0.05 + 1e-2
    assert page.seen.problems == []
    assert len(page.seen.requests) >= 10
    assert {url[: len(site.address)] for url in page.seen.requests} == {site.address}
    # The worker's requests are among them: it alone asks for this file.
    assert f"{site.address}onnxruntime/{FILES[1]}" in page.seen.requests


PROBABILITIES = """async () => {
  const {Network, readFacts} = await import('./network.js');
  const {decode} = await import('./pixels.js');
  const network = await Network.load(await readFacts(), () => {});
  const picture = await decode(await (await fetch('picture')).blob());
  return [...(await network.classify(picture)).probabilities];
}"""


def in_browser(browser, folder: Path, model: Path, picture: bytes) -> np.ndarray:
    """Write a page for a file, and return the probabilities that it computes for a picture."""
    write_web_page(folder, model)
    (folder / "picture").write_bytes(picture)
    with served(folder) as (address, _):
        page = open_page(browser, address)
        page.wait_for_selector(READY)
        found = page.evaluate(PROBABILITIES)
        page.context.close()
    return np.array(found)


def in_python(model: Path, picture: bytes) -> np.ndarray:
    values = np.zeros(10)
    for prediction in Classifier(model)(picture, topk=10):
        values[prediction.index] = prediction.probability
    return values


def digit(label: int) -> bytes:
    """A validation image of a class, as PNG."""
    images, labels = digits(held_out=True)
    return encoded(images[list(labels).index(label)])


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def test_probabilities_are_the_classifiers(browser, model, tmp_path):
    picture = digit(7)
    found = in_browser(browser, tmp_path, model, picture)
    np.testing.assert_allclose(found, in_python(model, picture), atol=1e-6)
    assert 0.5 < found.max() < 0.999


def test_an_int8_network_runs(browser, model, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            images = digits(held_out=False)[0][:50]
            self.batches = iter([preprocess(image, PREPROCESSING)[None] for image in images])

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    path = tmp_path / "int8.onnx"
    quantize_static(str(model), str(path), Reader(), per_channel=True)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(str(path)).graph.node}
    picture = digit(7)
    found = in_browser(browser, tmp_path / "site", path, picture)
    # Other kernels: an int8 value in the middle may be rounded to its neighbour.
    np.testing.assert_allclose(found, in_python(path, picture), atol=0.02)
    assert json.loads((tmp_path / "site" / "model.json").read_text())["number_format"] == "int8"


def test_a_network_with_embedded_preprocessing_gets_the_picture_as_it_is(browser, tmp_path):
    path = tmp_path / "embedded.onnx"
    write_digits_onnx(path, replace(DESCRIPTION, preprocessing=None, embedded_preprocessing=True))
    picture = encoded(digits(held_out=True)[0][0].resize((90, 70)))
    found = in_browser(browser, tmp_path / "site", path, picture)
    np.testing.assert_allclose(found, in_python(path, picture), atol=1e-5)


# ---- Pixels

INPUTS = """async ([names, preprocessing]) => {
  const {decode} = await import('./pixels.js');
  const {preprocess} = await import('./preprocessing.js');
  const inputs = {};
  for (const name of names) {
    const picture = await decode(await (await fetch(name)).blob());
    const bytes = new Uint8Array(preprocess(picture, preprocessing).input.buffer);
    let text = '';
    for (let k = 0; k < bytes.length; k += 8192) {
      text += String.fromCharCode(...bytes.subarray(k, k + 8192));
    }
    inputs[name] = btoa(text);
  }
  return inputs;
}"""


def inputs_of(page, site, pictures: dict[str, bytes], preprocessing: Preprocessing) -> dict:
    """The network's inputs that the page makes of encoded pictures."""
    for name, data in pictures.items():
        (site.folder / name).write_bytes(data)
    made = page.evaluate(INPUTS, [list(pictures), asdict(preprocessing)])
    shape = (preprocessing.channels, preprocessing.height, preprocessing.width)
    return {
        name: np.frombuffer(base64.b64decode(text), np.float32).reshape(shape)
        for name, text in made.items()
    }


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(height * width)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def smooth(height: int, width: int) -> Image.Image:
    small = noise(height // 12, width // 12)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC)


def other_colours() -> bytes:
    """An ICC profile that exchanges red and green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", profile, 128)
    place = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = (slice(place[n] + 4, place[n] + 12) for n in (b"rXYZ", b"gXYZ"))
    profile[red], profile[green] = profile[green], profile[red]
    return bytes(profile)


def with_gamma(png: bytes) -> bytes:
    body = b"gAMA" + struct.pack(">I", 100_000)
    chunk = struct.pack(">I", 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]  # after IHDR


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    return exif


IMAGENET = Preprocessing(224, 224, 256)


def test_pixels_of_lossless_files_are_pythons_to_the_last_bit(page, site):
    palette = smooth(300, 280).quantize(64)
    pictures = {
        "rgb.png": encoded(Image.fromarray(noise(300, 400))),
        "small.png": encoded(Image.fromarray(noise(31, 47))),
        "half.png": encoded(Image.fromarray(noise(512, 512))),
        "large.png": encoded(smooth(1500, 2100)),  # more than one strip
        "ribbon.png": encoded(Image.fromarray(noise(3, 900))),
        "grey.png": encoded(smooth(300, 280).convert("L")),
        "grey16.png": encoded(Image.fromarray(noise(300, 280, 2).view(np.uint16)[..., 0])),
        "rgba.png": encoded(Image.fromarray(noise(300, 280, 4))),
        "palette.png": encoded(palette),
        "transparent.png": encoded(palette, transparency=3),
        "profile.png": encoded(smooth(300, 280), icc_profile=other_colours()),
        "gamma.png": with_gamma(encoded(smooth(300, 280))),
        "turned.png": encoded(smooth(300, 280), exif=turned()),
        "picture.gif": encoded(palette, "GIF"),
        "picture.bmp": encoded(smooth(300, 280), "BMP"),
        "picture.webp": encoded(smooth(300, 280), "WEBP", lossless=True),
    }
    for name, made in inputs_of(page, site, pictures, IMAGENET).items():
        expected = preprocess(pictures[name], IMAGENET)
        assert np.array_equal(made, expected), (name, np.abs(made - expected).max())


def test_pixels_of_jpeg_files_are_pythons_within_two_levels(page, site):
    """Chromium and Pillow bring libjpeg-turbo, of different releases; seen here: no difference."""
    picture = smooth(300, 280)
    pictures = {
        "420.jpg": encoded(picture, "JPEG"),
        "422.jpg": encoded(picture, "JPEG", subsampling=1),
        "444.jpg": encoded(picture, "JPEG", subsampling=0, quality=95),
        "progressive.jpg": encoded(picture, "JPEG", progressive=True),
        "grey.jpg": encoded(picture.convert("L"), "JPEG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), "JPEG"),
        "profile.jpg": encoded(picture, "JPEG", icc_profile=other_colours()),
        "turned.jpg": encoded(picture, "JPEG", exif=turned()),
    }
    for name, made in inputs_of(page, site, pictures, IMAGENET).items():
        difference = np.abs(made - preprocess(pictures[name], IMAGENET)).max()
        assert difference <= 2.01 / min(IMAGENET.std), (name, difference)


def test_every_way_to_resize_crop_and_normalise_is_pythons_to_the_last_bit(page, site):
    names = {"wide.png": (37, 60), "high.png": (61, 40), "double.png": (48, 48)}
    pictures = {name: encoded(Image.fromarray(noise(*size))) for name, size in names.items()}
    grey = {"channels": 1, "mean": (127.5,), "std": (64.0,)}
    settings = [
        *(Preprocessing(24, 20, 24, by) for by in INTERPOLATIONS),
        *(Preprocessing(24, 20, (25, 81), by) for by in INTERPOLATIONS),
        *(Preprocessing(70, 70, 80, by) for by in INTERPOLATIONS),
        Preprocessing(24, 24, 24, **grey),
        Preprocessing(33, 40, 24),  # a border round it (crop_pct above 1)
    ]
    for setting in settings:
        for name, made in inputs_of(page, site, pictures, setting).items():
            assert np.array_equal(made, preprocess(pictures[name], setting)), (name, setting)


# ---- What people see

LUMINANCE = """
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
"""
# The contrast (WCAG 2) of each text with every ground that it stands on.
CONTRASTS = (
    """() => {"""
    + LUMINANCE
    + r"""
  const rgba = (text) => text.match(/[\d.]+/g).map(Number);
  const grounds = (element) => {
    const found = [...element.parentElement.querySelectorAll(':scope > .bar')]
      .map((bar) => rgba(getComputedStyle(bar).backgroundColor));
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return [...found, colour];
    }
    throw new Error('no ground');
  };
  const rows = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const ink = luminance(rgba(getComputedStyle(element).color));
    for (const ground of grounds(element).map(luminance)) {
      const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
      rows.push([walker.currentNode.data.trim(), contrast]);
    }
  }
  return rows;
}"""
)


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 360), ("light", 1200)])
def test_text_is_legible_and_nothing_is_wider_than_the_window(
    browser, site, tmp_path, scheme, width
):
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 700}}
    page = open_page(browser, site.address, **options)
    page.wait_for_selector(READY)
    page.set_input_files("#file", files("digit.png", digit(7)))
    shown(page)
    page.set_input_files("#file", files("notes.txt", b"no picture"))
    page.wait_for_selector("#error:not([hidden])")
    contrasts = page.evaluate(CONTRASTS)
    texts = [text for text, _ in contrasts]
    assert {"digits_conv", "seven", "Choose a picture", "The network", "Preprocessing"} <= set(
        texts
    )
    assert any("notes.txt" in text for text in texts)
    assert [row for row in contrasts if row[1] < 4.5] == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 22, 24)") == (scheme == "dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("#choose", "#camera"):  # as large as a finger
        assert page.locator(name).bounding_box()["height"] >= 44
    page.context.close()


def files(name: str, content: bytes) -> dict:
    return {"name": name, "mimeType": "", "buffer": content}


def test_facts_are_the_files(page, model):
    rows = dict(
        zip(
            page.locator("#facts dt").all_inner_texts(), page.locator("#facts dd").all_inner_texts()
        )
    )
    weights = 8 * 3 * 3 * 3 + 512 * 10 + 10
    assert rows["Model"] == "digits_conv"
    assert rows["Accuracy"] == "top-1 95.00 %, top-5 99.50 %"
    assert rows["Weights"] == f"{weights / 1e6:.2f} million, float32"
    assert rows["File"] == f"digits #1.onnx, {model.stat().st_size / 1e6:.1f} MB"
    assert "the short side to 32 pixels (bilinear)" in rows["Preprocessing"]
    assert "subtract 123.675, 116.28, 103.53" in rows["Preprocessing"]
    assert rows["Trained weights"] == "best.ckpt"
    assert rows["Computed by"] == "onnxruntime-web 1.30.0 on the processor, 1 thread"


def test_loading_tells_how_far_it_is(browser, site):
    page = open_page(browser, site.address)
    page.wait_for_selector(READY)
    said = page.evaluate("said")
    assert said[-1] == "Starting the network …"
    numbers = [text.split()[3] for text in said if text.startswith("Loading the network: ")]
    assert len(numbers) >= 3
    assert numbers == sorted(numbers, key=float)
    assert page.evaluate("document.getElementById('loading').hidden")
    page.context.close()


def test_the_keyboard_reaches_both_buttons_and_chooses_a_picture(page, tmp_path):
    path = tmp_path / "digit.png"
    path.write_bytes(digit(8))  # the last picture was of another class
    assert page.locator(".label").first.inner_text() != "eight"
    # Not expect_file_chooser: Playwright doesn't wait until Chromium hands choosers over to it.
    page.once("filechooser", lambda chooser: chooser.set_files(path))
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(2):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["file", "camera"]
    outline = "(name) => getComputedStyle(document.getElementById(name)).outlineStyle"
    assert page.evaluate(outline, "camera") == "solid"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(outline, "choose") == "solid"
    page.keyboard.press("Enter")
    wait_for_first(page, "eight")


def wait_for_first(page, label: str) -> None:
    condition = "(label) => document.querySelector('.label')?.textContent === label"
    page.wait_for_function(condition, arg=label)


PASTE = """(content) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  if (content) data.items.add(new File([bytes], 'pasted.png'));
  document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}));
}"""


def test_a_pasted_picture_is_classified_and_pasted_text_is_refused(page):
    page.evaluate(PASTE, base64.b64encode(digit(6)).decode())
    wait_for_first(page, "six")
    page.evaluate(PASTE, "")
    assert page.inner_text("#error") == "There is no picture in the clipboard."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "isn't a picture that this browser can read"),
        (b"", "is empty"),
        (encoded(Image.fromarray(noise(64, 64)))[:300], "isn't a picture that this browser can"),
    ],
    ids=["text", "empty", "cut"],
)
def test_what_is_no_picture_is_told_and_the_page_goes_on(page, content, message):
    page.set_input_files("#file", files("holiday.png", content))
    page.locator("#error", has_text=message).wait_for()
    assert "holiday.png" in page.inner_text("#error")
    page.set_input_files("#file", files("digit.png", digit(7)))
    wait_for_first(page, "seven")
    assert page.locator("#error").is_hidden()


def test_the_camera_is_classified_until_it_is_stopped(browser, site):
    page = open_page(browser, site.address, permissions=["camera"])
    page.wait_for_selector(READY)
    page.click("#camera")
    first = shown(page)
    page.locator("#camera", has_text="Stop the camera").wait_for()
    assert len(first) == 5
    assert page.locator("#video").is_visible()
    page.click("#camera")
    assert page.locator("#video").is_hidden()
    assert page.locator("#picture").is_visible()
    assert page.inner_text("#camera") == "Use the camera"
    assert page.seen.problems == []
    page.context.close()


def test_a_refused_camera_is_told(page):
    page.context.clear_permissions()
    page.click("#camera")
    page.wait_for_selector("#error:not([hidden])")
    assert "wasn't allowed to use the camera" in page.inner_text("#error")
    assert page.get_attribute("#camera", "aria-pressed") == "false"


def test_a_file_that_the_server_lacks_is_named(browser, site, tmp_path):
    without = shutil.ignore_patterns("*.onnx")
    shutil.copytree(site.folder, tmp_path, dirs_exist_ok=True, ignore=without)
    with served(tmp_path) as (address, _):
        page = open_page(browser, address)
        page.wait_for_selector("#error:not([hidden])")
        text = page.inner_text("#error")
        page.context.close()
    assert text == "The server has no file “digits #1.onnx” (404). Copy the whole folder."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("digits #1.onnx", b"not a network", "This browser can't run the network"),
        ("model.json", b"{", "“model.json” is damaged"),
    ],
)
def test_a_damaged_file_is_told(browser, site, tmp_path, name, content, message):
    shutil.copytree(site.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with served(tmp_path) as (address, _):
        page = open_page(browser, address)
        page.locator("#error", has_text=message).wait_for()
        page.context.close()


def test_an_output_that_is_not_finite_is_told(browser, model, tmp_path):
    network = onnx.load(str(model))
    [bias] = [tensor for tensor in network.graph.initializer if tensor.name == "bias"]
    bias.raw_data = np.full(10, np.nan, np.float32).tobytes()
    onnx.save(network, str(tmp_path / "nan.onnx"))
    with pytest.raises(Exception, match="The network's output isn't finite"):
        in_browser(browser, tmp_path / "site", tmp_path / "nan.onnx", digit(7))


def test_opened_as_a_file_the_page_says_how_to_serve_it(browser, site):
    page = open_page(browser, (site.folder / "index.html").as_uri())
    page.locator("#status").wait_for(state="visible")
    assert "Run python -m http.server in its folder" in page.inner_text("#status")
    page.context.close()


def test_the_page_cannot_ask_another_server(page, tmp_path):
    with served(tmp_path) as (address, asked):
        failed = page.evaluate("(a) => fetch(a).then(() => 'answered', (e) => e.name)", address)
    assert failed == "TypeError"
    assert asked == []
