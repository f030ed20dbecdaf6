/**
 * Resize a mask's levels as Pillow resizes an image of mode F with the bilinear filter.
 *
 * The filter is a triangle; if an image shrinks, the triangle widens by the same factor (`precompute_coeffs` and
 * `ImagingResampleHorizontal_32bpc` in Pillow's Resample.c). Sums are float64, and each pass rounds to float32.
 */

/** Return levels resized to a size: float32[side, side] -> float32[height, width]. */
export function resizeLevels(levels: Float32Array, side: number, width: number, height: number): Float32Array {
  const rows = width === side ? levels : resizeRows(levels, side, side, width);
  if (height === side) return rows;
  return transpose(resizeRows(transpose(rows, side, width), width, side, height), width, height);
}

/** Resize each row: float32[rows, from] -> float32[rows, to]. */
function resizeRows(pixels: Float32Array, rows: number, from: number, to: number): Float32Array {
  const resized = new Float32Array(rows * to);
  const scale = from / to;
  const filterScale = Math.max(scale, 1);
  for (let x = 0; x < to; x++) {
    const center = (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - filterScale + 0.5));
    const end = Math.min(from, Math.trunc(center + filterScale + 0.5));
    const weights = Array.from({ length: end - first }, (_, index) =>
      Math.max(0, 1 - Math.abs((index + first - center + 0.5) * (1 / filterScale))),
    );
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const coefficients = weights.map((weight) => weight / total);
    for (let row = 0; row < rows; row++) {
      let sum = 0;
      for (let index = 0; index < coefficients.length; index++) {
        sum += pixels[row * from + first + index]! * coefficients[index]!;
      }
      resized[row * to + x] = sum;
    }
  }
  return resized;
}

/** float32[rows, columns] -> float32[columns, rows]. */
function transpose(pixels: Float32Array, rows: number, columns: number): Float32Array {
  const turned = new Float32Array(pixels.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) turned[column * rows + row] = pixels[row * columns + column]!;
  }
  return turned;
}
