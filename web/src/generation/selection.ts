/**
 * Selection among the logits of a step without sorting the vocabulary: the largest, and their weights.
 *
 * Shapes: docs/notation.md.
 */

/** Logits; more are halved at their median before they are sorted. */
const MAX_SORTED = 64;

/**
 * Order values so that `values[place]` is the value that a sort would put there, no larger value stands before it
 * and no smaller value after it (Hoare's quickselect, Communications of the ACM 4(7), 1961).
 */
export function partition(values: Float32Array, place: number): void {
  let first = 0;
  let last = values.length - 1;
  while (first < last) {
    const pivot = median(values[first]!, values[(first + last) >> 1]!, values[last]!);
    let left = first;
    let right = last;
    while (left <= right) {
      while (values[left]! < pivot) left++;
      while (values[right]! > pivot) right--;
      if (left > right) break;
      const value = values[left]!;
      values[left++] = values[right]!;
      values[right--] = value;
    }
    // Between `right` and `left` all values equal the pivot.
    if (place <= right) last = right;
    else if (place >= left) first = left;
    else return;
  }
}

function median(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}

/** Return the positions of the `count` largest logits, ascending; among equal logits the lowest positions. */
export function largest(logits: Float32Array, count: number): Int32Array {
  const ordered = logits.slice();
  partition(ordered, logits.length - count);
  return above(logits, ordered[logits.length - count]!, count);
}

/** Return the softmax weights float64[V], exp((logit - peak) / temperature). The peak's weight is 1. */
export function weigh(logits: Float32Array, peak: number, temperature: number): Float64Array {
  const weights = new Float64Array(logits.length);
  for (let index = 0; index < logits.length; index++) {
    weights[index] = Math.exp((logits[index]! - peak) / temperature);
  }
  return weights;
}

/**
 * Return the positions of the smallest set whose weights reach `topP` of the total, ascending, at least one.
 *
 * Among n weights, those below (1 - topP) * total / n together have less than 1 - topP of the total, so the set
 * needs none of these small weights. The other weights are split at their median. The half with the boundary is
 * split again, and so on, in n + n/2 + ... = 2 n steps. The ranking uses the logits instead of the weights, since
 * weights of different logits may round to equal numbers.
 */
export function nucleus(
  logits: Float32Array,
  weights: Float64Array,
  topP: number,
  peak: number,
  temperature: number,
): Int32Array {
  const total = sum(weights);
  const goal = topP * total;
  // Half of the bound is used, so that rounding in the sums cannot make the bound too high.
  const bound = (0.5 * (1 - topP) * total) / weights.length;
  let undecided = logits.filter((_, index) => weights[index]! >= bound);
  let reached = 0;
  let included = 0;
  while (undecided.length > MAX_SORTED) {
    const half = undecided.length >> 1;
    partition(undecided, half);
    const upper = undecided.subarray(half);
    const reachedWithUpper = reached + sum(weigh(upper, peak, temperature));
    if (reachedWithUpper >= goal) {
      undecided = upper;
    } else {
      reached = reachedWithUpper;
      included += upper.length;
      undecided = undecided.subarray(0, half);
    }
  }
  const ordered = undecided.slice().sort().reverse();
  let last = 0;
  let cumulative = 0;
  for (const weight of weigh(ordered, peak, temperature)) {
    cumulative += weight;
    if (reached + cumulative >= goal || last === ordered.length - 1) break;
    last++;
  }
  return above(logits, ordered[last]!, included + last + 1);
}

/** Return the positions of the `count` largest logits, ascending; the smallest of these equals `boundary`. */
function above(logits: Float32Array, boundary: number, count: number): Int32Array {
  let larger = 0;
  for (const logit of logits) if (logit > boundary) larger++;
  let equals = count - larger; // of the logits that equal the boundary, this many are kept
  const positions = new Int32Array(count);
  let filled = 0;
  for (let index = 0; filled < count; index++) {
    if (logits[index]! > boundary || (logits[index] === boundary && equals-- > 0)) positions[filled++] = index;
  }
  return positions;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
