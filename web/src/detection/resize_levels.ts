/** Resize a mask's levels as Pillow resizes an image of mode F with the bilinear filter. */

import { BILINEAR, columnsFirst, weightsOf } from '../image/resampling.js';

/**
 * Return levels resized to a size: float32[side, side] -> float32[height, width].
 *
 * Sums are float64, and each pass rounds to float32.
 */
export function resizeLevels(levels: Float32Array, side: number, width: number, height: number): Float32Array {
  if (columnsFirst(side, side, width, height)) {
    return resizeRows(resizeColumns(levels, side, height), height, width);
  }
  return resizeColumns(resizeRows(levels, side, width), width, height);
}

/** Resize each row: float32[rows, from] -> float32[rows, to]. */
function resizeRows(levels: Float32Array, rows: number, to: number): Float32Array {
  const from = levels.length / rows;
  if (from === to) return levels;
  const { first, count, values, perPixel } = weightsOf(from, to, BILINEAR);
  const resized = new Float32Array(rows * to);
  for (let row = 0; row < rows; row++) {
    for (let x = 0; x < to; x++) {
      let sum = 0;
      for (let index = 0; index < count[x]!; index++) {
        sum += levels[row * from + first[x]! + index]! * values[x * perPixel + index]!;
      }
      resized[row * to + x] = sum;
    }
  }
  return resized;
}

/** Resize each column: float32[from, columns] -> float32[to, columns]. */
function resizeColumns(levels: Float32Array, columns: number, to: number): Float32Array {
  const from = levels.length / columns;
  if (from === to) return levels;
  return transpose(resizeRows(transpose(levels, from, columns), columns, to), columns, to);
}

/** float32[rows, columns] -> float32[columns, rows]. */
function transpose(levels: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(levels.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) turned[column * rows + row] = levels[row * columns + column]!;
  }
  return turned;
}
