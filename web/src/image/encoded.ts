/** The bytes of an encoded image, and what is read from them. */

/** Bytes of EXIF or XMP, one character per byte. */
export interface Metadata {
  readonly exif: string;
  readonly xmp: string;
  /** Whether the file has more frames than one. */
  readonly animated: boolean;
  /** Changes of the file that hide its EXIF from decoders. */
  readonly hiding: readonly Patch[];
}

/** Bytes that replace those of a file at a position. */
export interface Patch {
  readonly position: number;
  readonly bytes: Uint8Array;
}

/** Return a copy of a file with changes; without changes, the file itself. */
export function patched(file: Uint8Array, patches: readonly Patch[]): Uint8Array {
  if (patches.length === 0) return file;
  const copy = file.slice();
  for (const { position, bytes } of patches) copy.set(bytes, position);
  return copy;
}

/**
 * Return a file with changes, for the decoders of a browser; without changes, the file itself.
 *
 * @param bytes The content of the file.
 */
export function patchedBlob(file: Blob | Uint8Array, bytes: Uint8Array, patches: readonly Patch[]): Blob {
  return file instanceof Blob && patches.length === 0 ? file : new Blob([patched(bytes, patches) as BlobPart]);
}

/** Return bytes as text, one character per byte. */
export function latin1(bytes: Uint8Array): string {
  let text = '';
  // A call takes a limited number of arguments.
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return text;
}

/** Return a view of bytes. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
