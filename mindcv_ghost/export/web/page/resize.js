// Resizing as validation does it, to the last bit: the integer arithmetic of OpenCV 4.11 (weights of
// 11 bits, along the rows first, no antialiasing but in "area"), and of Pillow for "pilcubic".
// mindcv_ghost/inference/resize.py is the same in Python.
//
// A part of a picture is {data, stride, x, y, width, height}: bytes, four a pixel, of which the
// fourth is left out. A window {top, left, height, width} is what is wanted of the resized part.

const ONE = 2048; // a weight of 1
const RGB = 3;

/** Bytes (window.height, window.width, 3) of a part that is resized to (height, width). */
export function resize(part, height, width, by, window) {
  if (part.height === height && part.width === width) return nearest(part, height, width, window);
  return METHODS[by](part, height, width, window);
}

const METHODS = { bilinear, bicubic, nearest, area, pilcubic };

export const INTERPOLATIONS = Object.keys(METHODS);

// ---- Sums of pixels. The taps of an output are input pixels and their weights.

/** For each output of a line: {pixel: [...], weight: [...]}. */
function outputs(first, count, taps) {
  return Array.from({ length: count }, (_, k) => taps(first + k));
}

function inside(position, size) {
  return Math.min(Math.max(position, 0), size - 1);
}

/** Sums along the rows that are needed; returns what looks them up. Type: of the sums. */
function rowSums(part, columns, Type) {
  const lines = new Map();
  return (y) => {
    if (!lines.has(y)) lines.set(y, sumAlong(part, y, columns, new Type(RGB * columns.length)));
    return lines.get(y);
  };
}

function sumAlong({ data, stride, x, y: top }, y, columns, line) {
  const start = 4 * ((top + y) * stride + x);
  columns.forEach(({ pixel, weight }, k) => {
    for (let t = 0; t < pixel.length; ++t) {
      const at = start + 4 * pixel[t];
      for (let c = 0; c < RGB; ++c) {
        line[RGB * k + c] += Math.fround(data[at + c] * weight[t]); // exact for integers
      }
    }
  });
  return line;
}

/** Fill the window row by row; sum(lines, weights, j) is a byte. */
function fill(window, rows, lineOf, sum) {
  const width = RGB * window.width;
  const bytes = new Uint8Array(window.height * width);
  rows.forEach(({ pixel, weight }, k) => {
    const lines = pixel.map(lineOf);
    for (let j = 0; j < width; ++j) bytes[k * width + j] = sum(lines, weight, j);
  });
  return bytes;
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

function asByte(value) {
  return Math.min(Math.max(roundHalfEven(value), 0), 255);
}

// ---- Bilinear

function bilinear(part, height, width, window) {
  if (isHalf(part, height, width)) return blocks(part, 2, 2, window);
  return twoTaps(part, height, width, window, middle);
}

function isHalf(part, height, width) {
  return part.height === 2 * height && part.width === 2 * width;
}

/** Where the middle of an output pixel falls: input pixel, and fraction of one. */
function middle(size, resized, at) {
  const place = Math.fround((at + 0.5) * (1 / (resized / size)) - 0.5);
  const index = Math.floor(place);
  return [index, Math.fround(place - index)];
}

function twoTaps(part, height, width, window, place) {
  const columns = outputs(window.left, window.width, linearTaps(part.width, width, place, true));
  const rows = outputs(window.top, window.height, linearTaps(part.height, height, place, false));
  return fill(window, rows, rowSums(part, columns, Int32Array), ([above, below], weight, j) => {
    const sum = ((weight[0] * (above[j] >> 4)) >> 16) + ((weight[1] * (below[j] >> 4)) >> 16);
    return (sum + 2) >> 2;
  });
}

/** Beyond the ends columns have weight 1 on the last pixel, and rows keep both weights. */
function linearTaps(size, resized, place, areColumns) {
  return (at) => {
    let [index, fraction] = place(size, resized, at);
    if (areColumns && (index < 0 || index >= size - 1)) {
      [index, fraction] = [inside(index, size), 0];
    }
    return {
      pixel: [inside(index, size), inside(index + 1, size)],
      weight: [Math.fround(1 - fraction), fraction].map((w) => roundHalfEven(w * ONE)),
    };
  };
}

/** Means of blocks of whole pixels: "area", and bilinear at exactly half the size. */
function blocks({ data, stride, x, y }, down, across, window) {
  const bytes = new Uint8Array(RGB * window.width * window.height);
  const share = Math.fround(1 / (down * across));
  // At half the size OpenCV adds a half and cuts off; else it rounds halves to the even number.
  const mean = down * across === 4
    ? (sum) => (sum + 2) >> 2
    : (sum) => roundHalfEven(Math.fround(sum * share));
  for (let row = 0, to = 0; row < window.height; ++row) {
    for (let column = 0; column < window.width; ++column) {
      const top = y + down * (window.top + row);
      const left = x + across * (window.left + column);
      for (let c = 0; c < RGB; ++c) {
        let sum = 0;
        for (let v = 0; v < down; ++v) {
          for (let h = 0; h < across; ++h) sum += data[4 * ((top + v) * stride + left + h) + c];
        }
        bytes[to++] = mean(sum);
      }
    }
  }
  return bytes;
}

// ---- Bicubic

function bicubic(part, height, width, window) {
  const columns = outputs(window.left, window.width, cubicTaps(part.width, width));
  const rows = outputs(window.top, window.height, cubicTaps(part.height, height));
  const scale = Math.fround(1 / ONE ** 2);
  // OpenCV sums eight values at a time in float32, and what is left of a row in integers.
  const vectors = Math.trunc((RGB * width) / 8) * 8 - RGB * window.left;
  return fill(window, rows, rowSums(part, columns, Int32Array), (lines, weight, j) => {
    let sum = 0;
    if (j < vectors) {
      for (let t = 3; t >= 0; --t) {
        const scaled = Math.fround(weight[t] * scale);
        sum = Math.fround(sum + Math.fround(Math.fround(lines[t][j]) * scaled));
      }
      return asByte(sum);
    }
    for (let t = 0; t < 4; ++t) sum += lines[t][j] * weight[t];
    return Math.min(Math.max((sum + (1 << 21)) >> 22, 0), 255);
  });
}

function cubicTaps(size, resized) {
  const f = Math.fround;
  const a = f(-0.75);
  const inner = (x) => f(f(f(f(f(f(a + 2) * x) - f(a + 3)) * x) * x) + 1);
  return (at) => {
    const [index, x] = middle(size, resized, at);
    const x1 = f(x + 1);
    const first = f(f(f(f(f(f(f(a * x1) - f(a * 5)) * x1) + f(a * 8)) * x1)) - f(a * 4));
    const second = inner(x);
    const third = inner(f(1 - x));
    const fourth = f(f(f(1 - first) - second) - third);
    return {
      pixel: [-1, 0, 1, 2].map((step) => inside(index + step, size)),
      weight: [first, second, third, fourth].map((w) => roundHalfEven(f(w * ONE))),
    };
  };
}

// ---- Nearest

function nearest({ data, stride, x, y, width: wide, height: high }, height, width, window) {
  const pixel = (size, resized) => (at) =>
    Math.min(Math.floor(at * (1 / (resized / size))), size - 1);
  const columns = outputs(window.left, window.width, pixel(wide, width));
  const bytes = new Uint8Array(RGB * window.width * window.height);
  let to = 0;
  for (const row of outputs(window.top, window.height, pixel(high, height))) {
    for (const column of columns) {
      const at = 4 * ((y + row) * stride + x + column);
      for (let c = 0; c < RGB; ++c) bytes[to++] = data[at + c];
    }
  }
  return bytes;
}

// ---- Area

function area(part, height, width, window) {
  const down = 1 / (height / part.height);
  const across = 1 / (width / part.width);
  if (down < 1 || across < 1) return twoTaps(part, height, width, window, enlargedArea);
  if (Number.isInteger(down) && Number.isInteger(across)) return blocks(part, down, across, window);
  const columns = outputs(window.left, window.width, areaTaps(part.width, width));
  const rows = outputs(window.top, window.height, areaTaps(part.height, height));
  return fill(window, rows, rowSums(part, columns, Float32Array), (lines, weight, j) => {
    let sum = 0;
    for (let t = 0; t < lines.length; ++t) sum = Math.fround(sum + Math.fround(lines[t][j] * weight[t]));
    return asByte(sum);
  });
}

function enlargedArea(size, resized, at) {
  const inverse = resized / size;
  const index = Math.floor(at * (1 / inverse));
  const fraction = Math.fround(at + 1 - (index + 1) * inverse);
  return [index, fraction <= 0 ? 0 : Math.fround(fraction - Math.floor(fraction))];
}

/** The pixels that an output covers, whole or in part. */
function areaTaps(size, resized) {
  const scale = 1 / (resized / size);
  return (at) => {
    const start = at * scale;
    const end = start + scale;
    const cell = Math.min(scale, size - start);
    const last = Math.min(Math.floor(end), size - 1);
    const whole = Math.min(Math.ceil(start), last);
    const taps = { pixel: [], weight: [] };
    const add = (pixel, weight) => {
      taps.pixel.push(pixel);
      taps.weight.push(Math.fround(weight));
    };
    if (whole - start > 1e-3) add(whole - 1, (whole - start) / cell);
    for (let pixel = whole; pixel < last; ++pixel) add(pixel, 1 / cell);
    if (end - last > 1e-3) add(last, Math.min(end - last, 1, cell) / cell);
    return taps;
  };
}

// ---- Pillow's bicubic, with antialiasing

function pilcubic(part, height, width, window) {
  const columns = outputs(window.left, window.width, pillowTaps(part.width, width));
  const rows = outputs(window.top, window.height, pillowTaps(part.height, height));
  const lines = new Map(); // bytes, as Pillow keeps them between its two passes
  const lineOf = (y) => {
    if (!lines.has(y)) lines.set(y, pillowLine(part, y, columns));
    return lines.get(y);
  };
  return fill(window, rows, lineOf, (rowsOfBytes, weight, j) => {
    let sum = 1 << 21;
    for (let t = 0; t < weight.length; ++t) sum += rowsOfBytes[t][j] * weight[t];
    return pillowByte(sum);
  });
}

function pillowLine({ data, stride, x, y: top }, y, columns) {
  const start = 4 * ((top + y) * stride + x);
  const line = new Uint8Array(RGB * columns.length);
  columns.forEach(({ pixel, weight }, k) => {
    for (let c = 0; c < RGB; ++c) {
      let sum = 1 << 21;
      for (let t = 0; t < pixel.length; ++t) sum += data[start + 4 * pixel[t] + c] * weight[t];
      line[RGB * k + c] = pillowByte(sum);
    }
  });
  return line;
}

function pillowByte(sum) {
  return Math.min(Math.max(sum >> 22, 0), 255);
}

function pillowTaps(size, resized) {
  const scale = size / resized;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  const cubic = (x) => {
    const [d, a] = [Math.abs(x), -0.5];
    if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
  };
  return (at) => {
    const centre = (at + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), size);
    const pixel = Array.from({ length: end - first }, (_, k) => first + k);
    const shares = pixel.map((p) => cubic((p - centre + 0.5) * (1 / stretch)));
    const total = shares.reduce((a, b) => a + b, 0);
    const weight = shares.map((share) => {
      const exact = (share / total) * (1 << 22);
      return Math.trunc(exact < 0 ? exact - 0.5 : exact + 0.5);
    });
    return { pixel, weight };
  };
}
