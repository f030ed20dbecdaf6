/**
 * Run lengths of a mask in COCO's compressed form, which pycocotools reads and writes.
 *
 * A mask is read column by column, starting with a run of background, which may be empty. In the compressed form,
 * the first three runs are written as lengths. Each later run is written as the difference from the length of the
 * previous run of the same kind (background or foreground), two places before. Each number is then split into
 * groups of 5 bits, lowest bits first. A sixth bit of a group is set if more groups of the number follow, and 48 is
 * added to make each group a printable character (COCO API: `maskApi.h`; `rleToString` in `maskApi.c`).
 */

/** Bits of a number per character. */
const BITS = 5;
/** Set in every character of a number but the last. */
const CONTINUES = 1 << BITS;
/** "0", the character of zero. */
const FIRST_CHARACTER = 48;
/** Runs at the start that are not written as differences. */
const ABSOLUTE_RUNS = 3;

/** A mask in COCO's compressed form: `size` is [height, width], `counts` is ASCII. */
export interface RunLengths {
  readonly size: readonly [height: number, width: number];
  readonly counts: string;
}

/** Return the compressed form of a mask, uint8[height, width] of 0 and 1. */
export function encodeRunLengths(mask: Uint8Array, height: number, width: number): RunLengths {
  return { size: [height, width], counts: compress(runs(mask, height, width)) };
}

/** Return the lengths of a mask's alternating background and foreground runs. */
function runs(mask: Uint8Array, height: number, width: number): number[] {
  const lengths: number[] = [];
  let inside = 0;
  let length = 0;
  for (let column = 0; column < width; column++) {
    for (let row = 0; row < height; row++) {
      if (mask[row * width + column] !== inside) {
        lengths.push(length);
        inside = 1 - inside;
        length = 0;
      }
      length++;
    }
  }
  return [...lengths, length];
}

function compress(lengths: readonly number[]): string {
  const numbers = lengths.map((length, index) => (index < ABSOLUTE_RUNS ? length : length - lengths[index - 2]!));
  return numbers.map(characters).join('');
}

/** Return the characters of a signed number. Bit 4 of the last character is the sign. */
function characters(number: number): string {
  let text = '';
  for (let rest = number; ; ) {
    const group = rest & (CONTINUES - 1);
    rest >>= BITS;
    const isLast = rest === (group & (CONTINUES >> 1) ? -1 : 0);
    text += String.fromCharCode(FIRST_CHARACTER + (isLast ? group : group | CONTINUES));
    if (isLast) return text;
  }
}
