// From a picture's pixels to the network's input, to the last bit as validation makes it:
// resize, crop the centre, turn grey for one channel, normalise.
// mindcv_ghost/inference/preprocessing.py is the same in Python.
//
// A picture is {data, width, height}: bytes, four a pixel (RGBA, not multiplied by alpha), whose
// last is left out: transparency is dropped, as in training.

import { INTERPOLATIONS, resize } from "./resize.js";

const MAX_ASPECT = 100; // of a longer picture only the middle is resized

export function supports({ interpolation }) {
  return INTERPOLATIONS.includes(interpolation);
}

/** The float32 input (channels, height, width) of the network, and the bytes before normalisation. */
export function preprocess(picture, preprocessing) {
  const centre = cropped(picture, preprocessing);
  const bytes = preprocessing.channels === 1 ? grey(centre) : centre;
  return { input: normalise(bytes, preprocessing), bytes };
}

/** The bytes (height, width, channels) of a picture, for networks that do the preprocessing. */
export function withoutAlpha({ data, width, height }, channels) {
  const bytes = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < bytes.length; from += 4, to += 3) {
    bytes[to] = data[from];
    bytes[to + 1] = data[from + 1];
    bytes[to + 2] = data[from + 2];
  }
  return channels === 1 ? grey(bytes) : bytes;
}

/** Resize, and crop the centre: bytes (height, width, 3). */
function cropped(picture, { height, width, resize: to, interpolation }) {
  const part = { ...picture, stride: picture.width, x: 0, y: 0 };
  let high, wide;
  if (Array.isArray(to)) {
    [high, wide] = to;
  } else {
    cutEnds(part);
    [high, wide] = byShortSide(part, to);
  }
  const window = {
    top: Math.max(0, Math.trunc((high - height) / 2)),
    left: Math.max(0, Math.trunc((wide - width) / 2)),
    height: Math.min(high, height),
    width: Math.min(wide, width),
  };
  const bytes = resize(part, high, wide, interpolation, window);
  return window.height === height && window.width === width
    ? bytes
    : bordered(bytes, window, height, width);
}

function cutEnds(part) {
  const { width, height } = part;
  part.x = Math.trunc(Math.max(0, width - MAX_ASPECT * height) / 2);
  part.y = Math.trunc(Math.max(0, height - MAX_ASPECT * width) / 2);
  part.width -= 2 * part.x;
  part.height -= 2 * part.y;
}

/** Height and width with the short side given, in float32 as MindSpore's Resize. */
function byShortSide({ width, height }, side) {
  const other = (long, short) => Math.trunc(Math.fround(Math.fround(long / short) * side));
  return height < width ? [side, other(width, height)] : [other(height, width), side];
}

/** A black border round a picture that is smaller than the input (crop_pct above 1). */
function bordered(bytes, part, height, width) {
  const top = Math.ceil((height - part.height) / 2);
  const left = Math.ceil((width - part.width) / 2);
  const whole = new Uint8Array(3 * width * height);
  for (let y = 0; y < part.height; ++y) {
    const row = bytes.subarray(3 * part.width * y, 3 * part.width * (y + 1));
    whole.set(row, 3 * ((top + y) * width + left));
  }
  return whole;
}

/** Luma of RGB bytes, as OpenCV computes it with weights of 15 bits. */
function grey(bytes) {
  const luma = new Uint8Array(bytes.length / 3);
  for (let k = 0; k < luma.length; ++k) {
    const sum = 9798 * bytes[3 * k] + 19235 * bytes[3 * k + 1] + 3735 * bytes[3 * k + 2];
    luma[k] = (sum + 16384) >> 15;
  }
  return luma;
}

/** Bytes (height, width, channels) as float32 (channels, height, width). */
function normalise(bytes, { channels, mean, std }) {
  const pixels = bytes.length / channels;
  const input = new Float32Array(bytes.length);
  for (let c = 0; c < channels; ++c) {
    const [m, s] = [Math.fround(mean[c]), Math.fround(std[c])];
    const values = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte - m) / s);
    for (let p = 0; p < pixels; ++p) input[c * pixels + p] = values[bytes[channels * p + c]];
  }
  return input;
}
