// Messages between the command and a worker: a JSON header and tensors, in Node and in a browser.
//
// A message is the length of the header in bytes (uint32, little-endian), the length of the tensors' bytes
// (float64, little-endian), the header as JSON in UTF-8, and the bytes of the tensors. The header's key
// `tensors` lists name, dtype and shape of each tensor. runtime/conformance/messages.py is the other side.

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };
const START = 12; // bytes before the header

export function encode(header, tensors = {}) {
  const listed = Object.entries(tensors).map(([name, tensor]) => ({
    name,
    dtype: tensor.type,
    shape: [...tensor.dims],
  }));
  const text = new TextEncoder().encode(JSON.stringify({ ...header, tensors: listed }));
  const parts = Object.values(tensors).map(({ data }) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const message = new Uint8Array(START + text.length + size);
  const view = new DataView(message.buffer);
  view.setUint32(0, text.length, true);
  view.setFloat64(4, size, true);
  message.set(text, START);
  let offset = START + text.length;
  for (const part of parts) {
    message.set(part, offset);
    offset += part.length;
  }
  return message;
}

// Return the size in bytes of the message that `bytes` begins with, or Infinity if its start is incomplete.
export function messageSize(bytes) {
  if (bytes.length < START) return Infinity;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return START + view.getUint32(0, true) + view.getFloat64(4, true);
}

export function decode(message) {
  const bytes = new Uint8Array(message.buffer, message.byteOffset, message.byteLength); // a Buffer's slice copies nothing
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let offset = START + view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.slice(START, offset)));
  const tensors = {};
  for (const { name, dtype, shape } of header.tensors) {
    const length = shape.reduce((product, size) => product * size, 1);
    const size = length * ARRAYS[dtype].BYTES_PER_ELEMENT;
    // A copy: the bytes of a typed array must be aligned.
    tensors[name] = { type: dtype, dims: shape, data: new ARRAYS[dtype](bytes.slice(offset, offset + size).buffer) };
    offset += size;
  }
  return { header, tensors };
}
