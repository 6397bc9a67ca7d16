// Browsers turn a picture as its EXIF data say, and there is no option against it (imageOrientation
// "none" was taken out of the standard). Training ignores EXIF, so it is cut out of the file.

/** The same picture, JPEG or PNG, without EXIF data; other files as they are. */
export async function withoutExif(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const parts = [];
  let kept = 0;
  for (const [start, end] of exifOf(bytes)) {
    parts.push(bytes.subarray(kept, start));
    kept = end;
  }
  return kept ? new Blob([...parts, bytes.subarray(kept)], { type: blob.type }) : blob;
}

function exifOf(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return inJpeg(bytes);
  if (name(bytes, 1, 3) === "PNG") return inPng(bytes);
  return [];
}

/** Segments APP1 that begin with "Exif": marker, length, data. */
function* inJpeg(bytes) {
  for (let at = 2; bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
    const end = at + 2 + 256 * bytes[at + 2] + bytes[at + 3];
    if (!(end > at + 3)) return; // cut off
    if (bytes[at + 1] === 0xe1 && name(bytes, at + 4, 4) === "Exif") yield [at, end];
    at = end;
  }
}

/** Chunks eXIf: length, name, data, checksum. */
function* inPng(bytes) {
  const view = new DataView(bytes.buffer);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const end = at + 12 + view.getUint32(at);
    if (name(bytes, at + 4, 4) === "eXIf") yield [at, end];
    at = end;
  }
}

function name(bytes, start, count) {
  return String.fromCharCode(...bytes.subarray(start, start + count));
}
