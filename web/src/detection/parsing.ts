/**
 * Parser of the answers to `detect` and `segment`: boxes, labels and mask tokens.
 *
 * An object consists of four `<loc>` tokens (top, left, bottom, right), of 16 `<seg>` tokens if it has a mask, and
 * of a label. Objects are separated by ` ; ` (arXiv 2407.07726, section 3.2.5). A model may write any text. A part
 * of the answer that is not an object is left out with a warning; the parser does not guess its meaning.
 */

import { SEG_TOKENS_PER_MASK } from '../bundle/schema.js';
import { LOCATIONS_PER_BOX } from '../generation/constraints.js';
import { LAST_LOCATION, LAST_SEGMENT } from '../text/special_tokens.js';

const OBJECT = new RegExp(`^((?:<loc[0-9]{4}>){${LOCATIONS_PER_BOX}})((?:<seg[0-9]{3}>)*)([^<]*)$`);

/** A rectangle. The edges are fractions (0 to 1) of the image's height or width, from the top left. */
export interface Box {
  readonly top: number;
  readonly left: number;
  readonly bottom: number;
  readonly right: number;
}

/** Edges of a rectangle in pixels of an image: left, top, right, bottom. */
export type PixelBox = readonly [left: number, top: number, right: number, bottom: number];

/** Return the edges of a box in an image of `width` x `height` pixels. */
export function boxPixels(box: Box, width: number, height: number): PixelBox {
  return [box.left * width, box.top * height, box.right * width, box.bottom * height];
}

/** One object that was parsed from an answer. */
export interface ParsedObject {
  readonly label: string;
  readonly box: Box;
  /** 16 numbers from 0 to 127; null if no mask was written. */
  readonly maskTokens: readonly number[] | null;
  /** Positions in the text of the answer: begin and end of the <loc> tokens, begin and end of the label. */
  readonly positions: readonly [boxStart: number, boxEnd: number, labelStart: number, labelEnd: number];
}

/** The objects of an answer in the order written, and a warning for each part that is not an object. */
export interface ParsedAnswer {
  readonly objects: readonly ParsedObject[];
  readonly warnings: readonly string[];
}

/** Return the objects in an answer to `detect` or `segment`, and warnings. Never throws. */
export function parseAnswer(text: string): ParsedAnswer {
  const objects: ParsedObject[] = [];
  const warnings: string[] = [];
  for (const found of text.matchAll(/[^;]+/g)) {
    const part = found[0].trim();
    if (part === '') continue;
    const parsed = parseObject(part, found.index + found[0].indexOf(part));
    if (typeof parsed === 'string') warnings.push(`${JSON.stringify(part.slice(0, 80))} ${parsed}`);
    else objects.push(parsed);
  }
  return { objects, warnings };
}

/** Return the object that a part of an answer describes, or a text that says why it is not an object. */
function parseObject(part: string, start: number): ParsedObject | string {
  const match = OBJECT.exec(part);
  if (match === null) return 'is not four <loc> tokens, then none or 16 <seg> tokens, then a label';
  const [, locations, segments, label] = match as unknown as [string, string, string, string];
  const edges = numbersIn(locations);
  const [top, left, bottom, right] = edges as [number, number, number, number];
  if (Math.max(...edges) > LAST_LOCATION) return `has a location beyond ${LAST_LOCATION}`;
  if (bottom <= top || right <= left) return 'is a box without area';
  const maskTokens = numbersIn(segments);
  const isMask = maskTokens.length === SEG_TOKENS_PER_MASK && Math.max(...maskTokens) <= LAST_SEGMENT;
  if (maskTokens.length > 0 && !isMask) {
    return `does not have ${SEG_TOKENS_PER_MASK} <seg> tokens of 0 to ${LAST_SEGMENT}`;
  }
  const labelStart = start + locations.length + segments.length;
  return {
    label: label.trim(),
    box: {
      top: top / LAST_LOCATION,
      left: left / LAST_LOCATION,
      bottom: bottom / LAST_LOCATION,
      right: right / LAST_LOCATION,
    },
    maskTokens: isMask ? maskTokens : null,
    positions: [start, start + locations.length, labelStart, labelStart + label.length],
  };
}

function numbersIn(tokens: string): number[] {
  return Array.from(tokens.matchAll(/[0-9]+/g), ([digits]) => Number(digits));
}
