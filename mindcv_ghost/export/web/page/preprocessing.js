// From a picture's pixels to the network's input, as validation makes it: the same integer
// arithmetic, so that the same pixels give the same input to the last bit. Bilinear resizing is
// OpenCV's, with weights of 11 bits and without antialiasing.
//
// A picture is {data, width, height}: bytes, four a pixel (RGBA, not multiplied by alpha), whose
// last is left out: transparency is dropped, as in training.

const ONE = 2048; // a weight of 1
const MAX_ASPECT = 100; // of a longer picture only the middle is resized

/** The float32 input (channels, height, width) of the network, and the bytes before normalisation. */
export function preprocess(picture, preprocessing) {
  const { height, width, channels } = preprocessing;
  const plan = planFor(picture, preprocessing);
  let bytes = resizers[preprocessing.interpolation](picture, plan, height, width);
  if (channels === 1) bytes = grey(bytes);
  return { input: normalise(bytes, preprocessing), bytes };
}

export function supports(preprocessing) {
  return preprocessing.interpolation in resizers;
}

/** The RGB bytes (height, width, 3) of a picture, for networks that do the preprocessing. */
export function withoutAlpha({ data, width, height }) {
  const bytes = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < bytes.length; from += 4, to += 3) {
    bytes[to] = data[from];
    bytes[to + 1] = data[from + 1];
    bytes[to + 2] = data[from + 2];
  }
  return bytes;
}

/** What part of the picture is resized to which size, and where the network's input is in that. */
function planFor({ width, height }, preprocessing) {
  const crop = { x: 0, y: 0, width, height };
  let resizedHeight, resizedWidth;
  if (Array.isArray(preprocessing.resize)) {
    [resizedHeight, resizedWidth] = preprocessing.resize;
  } else {
    crop.x = cut(width, height);
    crop.y = cut(height, width);
    crop.width -= 2 * crop.x;
    crop.height -= 2 * crop.y;
    resizedHeight = resizedWidth = preprocessing.resize;
    const longSide = (long, short) =>
      Math.floor(Math.fround(Math.fround(long / short) * preprocessing.resize));
    if (crop.height < crop.width) resizedWidth = longSide(crop.width, crop.height);
    else resizedHeight = longSide(crop.height, crop.width);
  }
  return {
    crop,
    height: resizedHeight,
    width: resizedWidth,
    top: Math.trunc((resizedHeight - preprocessing.height) / 2),
    left: Math.trunc((resizedWidth - preprocessing.width) / 2),
  };
}

function cut(side, other) {
  return side > MAX_ASPECT * other ? Math.trunc((side - MAX_ASPECT * other) / 2) : 0;
}

const resizers = { bilinear };

function bilinear(picture, plan, height, width) {
  const { crop } = plan;
  if (crop.width === 2 * plan.width && crop.height === 2 * plan.height) {
    return halved(picture, plan, height, width);
  }
  const columns = taps(crop.width, plan.width, plan.left, width, true);
  const rows = taps(crop.height, plan.height, plan.top, height, false);
  const bytes = new Uint8Array(3 * width * height);
  const lines = new Map(); // row of the picture -> interpolated along the row
  const line = (y) => {
    if (!lines.has(y)) lines.set(y, alongRow(picture, crop.x, crop.y + y, columns));
    return lines.get(y);
  };
  rows.forEach((row, k) => {
    const above = line(row.first);
    const below = line(row.second);
    for (let j = 0; j < 3 * width; ++j) {
      const high = (row.weightFirst * (above[j] >> 4)) >> 16;
      const low = (row.weightSecond * (below[j] >> 4)) >> 16;
      bytes[3 * width * k + j] = (high + low + 2) >> 2;
    }
    for (const y of lines.keys()) if (y < row.first) lines.delete(y);
  });
  return bytes;
}

// An output column or row is the weighted sum of two neighbours. Beyond the ends columns use the
// outermost pixel with weight 1; rows keep both weights, on the same pixel.
function taps(size, resized, from, count, areColumns) {
  const scale = 1 / (resized / size);
  const inside = (position) => Math.min(Math.max(position, 0), size - 1);
  return Array.from({ length: count }, (_, k) => {
    let fraction = Math.fround((from + k + 0.5) * scale - 0.5);
    let index = Math.floor(fraction);
    fraction = Math.fround(fraction - index);
    if (areColumns && index < 0) [index, fraction] = [0, 0];
    if (areColumns && index >= size - 1) [index, fraction] = [size - 1, 0];
    return {
      first: inside(index),
      second: inside(index + 1),
      weightFirst: roundHalfEven(Math.fround(1 - fraction) * ONE),
      weightSecond: roundHalfEven(fraction * ONE),
    };
  });
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

function alongRow({ data, width }, x, y, columns) {
  const start = 4 * (y * width + x);
  const line = new Int32Array(3 * columns.length);
  columns.forEach(({ first, second, weightFirst, weightSecond }, k) => {
    const left = start + 4 * first;
    const right = start + 4 * second;
    for (let c = 0; c < 3; ++c) {
      line[3 * k + c] = data[left + c] * weightFirst + data[right + c] * weightSecond;
    }
  });
  return line;
}

/** The mean of each two by two pixels: what OpenCV does at exactly half the size. */
function halved({ data, width: stride }, { crop, top, left }, height, width) {
  const bytes = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; ++y) {
    for (let x = 0; x < width; ++x) {
      const at = 4 * ((crop.y + 2 * (top + y)) * stride + crop.x + 2 * (left + x));
      const below = at + 4 * stride;
      for (let c = 0; c < 3; ++c) {
        const sum = data[at + c] + data[at + 4 + c] + data[below + c] + data[below + 4 + c];
        bytes[3 * (y * width + x) + c] = (sum + 2) >> 2;
      }
    }
  }
  return bytes;
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
