// What people see and do: choosing, dropping, pasting, the camera; the classes, errors and facts.

import { decode, grab } from "./pixels.js";
import { Network, readFacts } from "./network.js";

const SHOWN = 5;
const part = (id) => document.getElementById(id);
const percent = (value, digits) => `${value.toFixed(digits)} %`;
const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

let network = null;
let waiting = null; // the picture that was given last, before the network was there
let turn = 0; // of the picture that was given last: an older one's answer isn't shown

start();

async function start() {
  part("status").classList.remove("late");
  say("Loading …");
  listen();
  try {
    const facts = await readFacts();
    introduce(facts);
    network = await Network.load(facts, showProgress);
    describe(facts);
    part("loading").hidden = true;
    document.documentElement.dataset.ready = "true";
    if (waiting) await classify(waiting, turn);
  } catch (error) {
    part("loading").hidden = true;
    complain(error);
  }
}

function showProgress(loaded, total) {
  const bar = part("progress");
  bar.hidden = false;
  bar.value = Math.min(1, loaded / total);
  say(
    loaded < total
      ? `Loading the network: ${megabytes(loaded)} of ${megabytes(total)} MB`
      : "Starting the network …",
  );
}

function say(text) {
  if (part("status").textContent !== text) part("status").textContent = text;
}

function complain(error) {
  part("answer").setAttribute("aria-busy", "false");
  part("error").textContent = error.message;
  part("error").hidden = false;
}

// ---- Pictures

function listen() {
  const stage = part("stage");
  part("file").addEventListener("change", () => {
    const [file] = part("file").files;
    if (file) open(file);
    part("file").value = ""; // so that the same file can be chosen again
  });
  part("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      if (stage.dataset.state === "empty") stage.dataset.state = "over";
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget && stage.dataset.state === "over") stage.dataset.state = "empty";
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (stage.dataset.state === "over") stage.dataset.state = "empty";
    take(event.dataTransfer, "What was dropped isn't a file. Save the picture, and drop its file.");
  });
  document.addEventListener("paste", (event) => {
    take(event.clipboardData, "There is no picture in the clipboard.");
  });
}

function take(transfer, otherwise) {
  const [file] = transfer.files;
  if (file) open(file);
  else complain(new Error(otherwise));
}

async function open(file) {
  stopCamera();
  const mine = ++turn;
  part("error").hidden = true;
  part("answer").setAttribute("aria-busy", "true"); // the classes are still the last picture's
  try {
    const picture = await decode(file);
    if (mine !== turn) return;
    show(picture);
    if (network) await classify(picture, mine);
    else waiting = picture;
  } catch (error) {
    if (mine === turn) complain(error);
  }
}

function show(picture) {
  const canvas = part("picture");
  paint(canvas, picture.data, picture.width, picture.height, 4);
  canvas.classList.toggle("pixelated", Math.max(picture.width, picture.height) < 200);
  canvas.style.width = `${Math.max(picture.width, Math.min(320, 8 * picture.width))}px`;
  canvas.hidden = false;
  part("video").hidden = part("invitation").hidden = true;
  part("stage").dataset.state = "full";
}

function paint(canvas, bytes, width, height, channels) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let p = 0; p < width * height; ++p) {
    for (let c = 0; c < 3; ++c) image.data[4 * p + c] = bytes[channels * p + (channels > 1 ? c : 0)];
    image.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// ---- The camera

let stream = null;
let grabbed = null; // the camera's picture whose classes are shown

async function startCamera() {
  part("error").hidden = true;
  if (!navigator.mediaDevices?.getUserMedia) {
    complain(new Error("Browsers give the camera to pages of https:// and http://localhost alone."));
    return;
  }
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    complain(new Error(refusals[error.name] || `The camera can't be used: ${error.message}`));
    return;
  }
  const mine = ++turn;
  const video = part("video");
  video.srcObject = stream;
  await video.play();
  part("picture").hidden = part("invitation").hidden = true;
  video.hidden = false;
  part("stage").dataset.state = "full";
  part("camera").textContent = "Stop the camera";
  part("camera").setAttribute("aria-pressed", "true");
  part("classes").setAttribute("aria-live", "off"); // it changes several times a second
  try {
    while (mine === turn) {
      if (network) {
        const picture = await grab(video);
        await classify(picture, mine);
        if (mine === turn) grabbed = picture;
      }
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    if (mine === turn) complain(error);
  }
}

const refusals = {
  NotAllowedError:
    "The browser wasn't allowed to use the camera. Allow it for this page (beside the address), and try again.",
  NotFoundError: "This device has no camera.",
  NotReadableError: "Another program is using the camera.",
};

/** The last picture that was classified stays, with its classes. */
function stopCamera() {
  if (!stream) return;
  ++turn;
  const video = part("video");
  if (grabbed) show(grabbed);
  grabbed = null;
  video.hidden = true;
  stream.getTracks().forEach((track) => track.stop());
  video.srcObject = stream = null;
  part("camera").textContent = "Use the camera";
  part("camera").setAttribute("aria-pressed", "false");
  part("classes").setAttribute("aria-live", "polite");
}

// ---- Classes

async function classify(picture, mine) {
  const { probabilities, milliseconds, seen } = await network.classify(picture);
  if (mine !== turn) return;
  part("answer").setAttribute("aria-busy", "false");
  part("classes").replaceChildren(...network.best(probabilities, SHOWN).map(row));
  part("classes").hidden = false;
  const { preprocessing, network: running } = milliseconds;
  part("time").textContent =
    `${preprocessing.toFixed(0)} ms to prepare the picture, ${running.toFixed(0)} ms in the network`;
  part("time").hidden = false;
  part("seen").hidden = !seen;
  if (seen) {
    paint(part("input"), seen.bytes, seen.width, seen.height, seen.channels);
    part("caption").textContent = `What the network gets: ${seen.width} × ${seen.height} pixels`;
  }
}

function row({ label, probability }) {
  const item = document.createElement("li");
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.style.width = percent(100 * probability, 2).replace(" ", "");
  item.append(bar, text("span", "label", label), text("span", "share", percent(100 * probability, 1)));
  return item;
}

function text(tag, name, content) {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = content;
  return element;
}

// ---- The network

function introduce({ description }) {
  part("name").textContent = document.title = description.model;
  const words = [`${description.num_classes} classes`];
  const { top1, images, split } = description.accuracy;
  if (top1 !== undefined) {
    words.push(`${percent(top1, 2)} right on ${images} images${split ? ` (${split})` : ""}`);
  }
  part("summary").textContent = words.join(" · ");
}

function describe(facts) {
  const { description } = facts;
  const { accuracy, preprocessing, embedded_preprocessing: embedded } = description;
  const rows = [
    ["Model", description.model],
    ["Classes", `${description.num_classes}`],
    [
      "Accuracy",
      ["top1", "top5"]
        .filter((name) => accuracy[name] !== undefined)
        .map((name) => `${name.replace("top", "top-")} ${percent(accuracy[name], 2)}`)
        .join(", "),
    ],
    ["Weights", `${(facts.parameters / 1e6).toFixed(2)} million, ${facts.number_format}`],
    ["File", `${facts.file}, ${megabytes(facts.files[facts.file])} MB`],
    ["Preprocessing", embedded ? "inside the network's file" : inWords(preprocessing)],
    ["Trained weights", description.checkpoint.file],
    [
      "Computed by",
      `onnxruntime-web ${facts.onnxruntime_web} on the processor, ${network.threads} thread${network.threads > 1 ? "s" : ""}`,
    ],
  ];
  part("facts").replaceChildren(
    ...rows.filter(([, value]) => value).flatMap(([name, value]) => [text("dt", "", name), text("dd", "", value)]),
  );
  part("about").hidden = false;
}

function inWords({ height, width, resize, interpolation, channels, mean, std }) {
  const to = Array.isArray(resize) ? `to ${resize[1]} × ${resize[0]}` : `the short side to ${resize}`;
  const list = (values) => values.map((value) => Number(value.toFixed(3))).join(", ");
  return (
    `resize ${to} pixels (${interpolation}), cut out the centre of ${width} × ${height}` +
    `${channels === 1 ? ", turn grey" : ""}, subtract ${list(mean)}, divide by ${list(std)}`
  );
}
