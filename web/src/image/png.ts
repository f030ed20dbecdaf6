/** Read the metadata of a PNG. Source: PNG third edition, sections 5 and 11. */

import { latin1, type Metadata, type Patch, patched, viewOf } from './encoded.js';

const SIGNATURE_BYTES = 8;
const METADATA_CHUNKS = new Set(['tEXt', 'zTXt', 'iTXt', 'eXIf', 'acTL']);
const MAX_TEXT_BYTES = 1 << 20; // also after decompression
// Text with these keywords may contain the orientation: XMP, and EXIF as ImageMagick writes it in hexadecimal.
const XMP = 'XML:com.adobe.xmp\0';
const RAW_EXIF = 'Raw profile type exif\0';
const HIDDEN = 'exIf'; // in place of eXIf: decoders skip private ancillary chunks (section 5.4)
const CRC_POLYNOMIAL = 0xedb88320; // PNG, annex D, with its bits reversed

/**
 * Return the metadata of a PNG. A chunk with a wrong checksum is ignored.
 *
 * @throws {RangeError} The file ends within a chunk.
 */
export async function readPngMetadata(file: Uint8Array): Promise<Metadata> {
  const view = viewOf(file);
  let exif = '';
  let xmp = '';
  let animated = false;
  const hiding: Patch[] = [];
  let position = SIGNATURE_BYTES;
  while (position + 8 <= file.length) {
    const length = view.getUint32(position);
    const chunk = latin1(file.subarray(position + 4, position + 8));
    const checked = file.subarray(position + 4, position + 8 + length);
    position += 8 + length + 4;
    if (chunk === 'IEND') break;
    if (!METADATA_CHUNKS.has(chunk) || length > MAX_TEXT_BYTES) continue;
    if (view.getUint32(position - 4) !== crc32(checked)) continue;
    const bytes = checked.subarray(4);
    const body = latin1(bytes);
    if (chunk === 'acTL') animated = viewOf(bytes).getUint32(0) > 1; // the number of frames
    else if (chunk === 'eXIf') {
      exif = body;
      hiding.push(...hidingChunk(position - checked.length - 4, checked));
    } else if (body.startsWith(XMP) && xmp === '') xmp = await textAfter(XMP, chunk, bytes);
    else if (body.startsWith(RAW_EXIF) && exif === '') exif = fromHexadecimal(await textAfter(RAW_EXIF, chunk, bytes));
  }
  return { exif, xmp, animated, hiding };
}

/** Return the changes that hide a chunk, whose type and content begin at a position. */
function hidingChunk(position: number, checked: Uint8Array): Patch[] {
  const type = Uint8Array.from(HIDDEN, (char) => char.charCodeAt(0));
  const crc = new Uint8Array(4);
  viewOf(crc).setUint32(0, crc32(patched(checked, [{ position: 0, bytes: type }])));
  return [
    { position, bytes: type },
    { position: position + checked.length, bytes: crc },
  ];
}

/** Return the text in a chunk's content after the keyword; empty if it is malformed. Source: section 11.3.3. */
async function textAfter(keyword: string, chunk: string, content: Uint8Array): Promise<string> {
  let body = content.subarray(keyword.length);
  let compressed = chunk === 'zTXt';
  if (chunk === 'iTXt') {
    compressed = body[0] === 1;
    // Compression flag and method, then language and translated keyword, each with a zero at its end.
    const language = body.indexOf(0, 2);
    const translated = body.indexOf(0, language + 1);
    if (language < 0 || translated < 0) return '';
    body = body.subarray(translated + 1);
  } else if (compressed) {
    body = body.subarray(1); // compression method
  }
  return latin1(compressed ? await inflate(body) : body);
}

/** Return the first MAX_TEXT_BYTES of zlib data, or as many as can be read. */
async function inflate(data: Uint8Array): Promise<Uint8Array> {
  const bytes: number[] = [];
  const stream = new Blob([data as BlobPart]).stream().pipeThrough(new DecompressionStream('deflate'));
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done || bytes.length >= MAX_TEXT_BYTES) break;
      bytes.push(...value);
    }
  } catch {
    // The data is malformed or cut off.
  }
  await reader.cancel().catch(() => undefined);
  return Uint8Array.from(bytes.slice(0, MAX_TEXT_BYTES));
}

/** Return the bytes of an ImageMagick profile: lines with its type and length, then hexadecimal digits. */
function fromHexadecimal(profile: string): string {
  const digits = profile.split('\n').slice(3).join('').replace(/\s/g, '');
  if (!/^(?:[0-9a-f]{2})*$/i.test(digits)) return '';
  return digits.replace(/../g, (pair) => String.fromCharCode(Number.parseInt(pair, 16)));
}

function crc32(bytes: Uint8Array): number {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ CRC_POLYNOMIAL : crc >>> 1;
  }
  return ~crc >>> 0;
}
