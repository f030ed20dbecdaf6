/** Results of `detect` and `segment`: the objects of an answer with their boxes and masks in the image. */

import type { Generation } from '../generation/types.js';
import type { ModelRunner } from '../graphs/model_runner.js';
import type { PromptTokenizer } from '../text/tokenizer.js';
import { Mask } from './masks.js';
import { type Box, type PixelBox, boxPixels, parseAnswer } from './parsing.js';
import type { RunLengths } from './rle.js';
import { answerText, scoreObject } from './scores.js';

/** An object in an image. */
export interface Detection {
  /** Text that the model wrote after the box. */
  readonly label: string;
  /** Edges as fractions of the image's sides. */
  readonly box: Box;
  /** Left, top, right and bottom in pixels of the image in its displayed orientation. */
  readonly pixels: PixelBox;
  /** null if the task was `detect` or the model wrote no mask. */
  readonly mask: Mask | null;
  /** The model's probability of the box: see docs/detection-scores.md. */
  readonly boxScore: number;
  /** The model's probability of the label after this box. */
  readonly labelScore: number;
  /** `boxScore` times `labelScore`, to rank objects. It is not calibrated. */
  readonly score: number;
}

/** The objects of an answer in the order written. */
export interface Detections {
  readonly objects: readonly Detection[];
  /** Pixels of the image in its displayed orientation. */
  readonly width: number;
  readonly height: number;
  /** Warnings about opening the image, and about parts of the answer that are not objects. */
  readonly warnings: readonly string[];
  /** The answer with its ids and timings. */
  readonly generation: Generation;
}

/** A detection as plain data for JSON, with the fields of the Python driver. */
export interface DetectionJson {
  readonly label: string;
  readonly box: PixelBox;
  readonly score: number;
  readonly box_score: number;
  readonly label_score: number;
  readonly mask: RunLengths | null;
}

/** Return the objects as plain data for JSON. A mask is written as COCO run lengths. */
export function objectsAsJson({ objects }: Detections): DetectionJson[] {
  return objects.map((object) => ({
    label: object.label,
    box: object.pixels,
    score: object.score,
    box_score: object.boxScore,
    label_score: object.labelScore,
    mask: object.mask?.rle ?? null,
  }));
}

/**
 * Return the objects of an answer, with decoded masks if `masks` is true.
 *
 * @param generation The answer, with probabilities.
 * @param width Pixels of the image in its displayed orientation.
 * @param height Pixels of the image in its displayed orientation.
 * @param masks False: ignore mask tokens.
 * @throws {BundleError} Masks are requested, and the bundle has no mask decoder.
 * @throws {NumericsError} The mask decoder computed NaN or infinity.
 */
export async function detections(
  generation: Generation,
  width: number,
  height: number,
  runner: ModelRunner,
  tokenizer: PromptTokenizer,
  masks: boolean,
): Promise<Detections> {
  const { text, starts } = answerText(generation, tokenizer);
  const answer = parseAnswer(text);
  const codes = answer.objects.flatMap(({ maskTokens }) => (masks && maskTokens !== null ? [maskTokens] : []));
  const levels = codes.length > 0 ? await runner.decodeMasks(codes) : [];
  let used = 0;
  const objects = answer.objects.map((parsed): Detection => {
    const { label, box, maskTokens } = parsed;
    const mask = masks && maskTokens !== null ? new Mask(levels[used++]!, box, width, height) : null;
    const score = scoreObject(parsed, generation, starts);
    const [boxScore, labelScore] = [score?.box ?? 0, score?.label ?? 0];
    const pixels = boxPixels(box, width, height);
    return { label, box, pixels, mask, boxScore, labelScore, score: boxScore * labelScore };
  });
  return { objects, width, height, warnings: [...generation.warnings, ...answer.warnings], generation };
}
