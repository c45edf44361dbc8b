"use strict";
// Reads what report/page_data.py wrote: gzipped JSON with arrays, as base64 in an element.

const ARRAYS = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array,
  uint32: Uint32Array, float32: Float32Array, float64: Float64Array };

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function unpack(element) {
  const gunzip = new Blob([fromBase64(element.textContent.trim())]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(gunzip).arrayBuffer();
  element.textContent = ""; // the memory is better spent on the arrays
  const length = new DataView(buffer).getUint32(0, true), start = 8 + length + (-length & 7);
  const header = new TextDecoder().decode(new Uint8Array(buffer, 8, length));
  return JSON.parse(header, (key, value) => {
    if (!value || !value.$array) return value;
    const [type, place, size] = value.$array;
    return new ARRAYS[type](buffer, start + place, size);
  });
}
