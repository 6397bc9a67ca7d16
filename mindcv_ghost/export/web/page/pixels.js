// Pictures as their files store them: no colour management, no rotation by EXIF, no
// multiplication by alpha. That is how training reads them.

import { withoutExif } from "./exif.js";

const MAX_PIXELS = 89478485; // as in training: Pillow's limit against decompression bombs
const STRIP = 1024; // rows that are read at a time; browsers limit a canvas's area
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/** Decode a file; the text of an error is for people. */
export async function decode(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(await withoutExif(blob), AS_STORED);
  } catch {
    const what = blob.name ? `“${blob.name}”` : "This";
    throw new Error(
      blob.size
        ? `${what} isn't a picture that this browser can read (JPEG, PNG, WebP, GIF and BMP are).`
        : `${what} is empty.`,
    );
  }
  return fromBitmap(bitmap);
}

/** The camera's present picture. */
export async function grab(video) {
  return fromBitmap(await createImageBitmap(video, { colorSpaceConversion: "none" }));
}

function fromBitmap(bitmap) {
  const { width, height } = bitmap;
  try {
    if (width * height > MAX_PIXELS) {
      throw new Error(
        `The picture has ${width} × ${height} pixels; ${MAX_PIXELS.toLocaleString("en")} is the limit.`,
      );
    }
    const data = throughCanvas(bitmap);
    // A canvas multiplies colours by alpha; WebGL doesn't.
    const opaque = isOpaque(data);
    return { data: opaque ? data : throughWebGL(bitmap) || data, width, height };
  } finally {
    bitmap.close();
  }
}

function isOpaque(data) {
  for (let k = 3; k < data.length; k += 4) if (data[k] !== 255) return false;
  return true;
}

function throughCanvas(bitmap) {
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = Math.min(STRIP, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y += STRIP) {
    const rows = Math.min(STRIP, height - y);
    context.clearRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, y, width, rows, 0, 0, width, rows);
    data.set(context.getImageData(0, 0, width, rows).data, 4 * width * y);
  }
  return data;
}

/** The same without multiplication by alpha; null where WebGL isn't there or not large enough. */
function throughWebGL(bitmap) {
  const { width, height } = bitmap;
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const data = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, data);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep only a few contexts
  return failed ? null : data;
}
