/**
 * The random numbers of NumPy's `Generator(PCG64(seed))`, which the Python driver draws from.
 *
 * PCG64 is the generator PCG-XSL-RR-128/64 (O'Neill, "PCG: A family of simple fast space-efficient statistically
 * good algorithms for random number generation", 2014, sections 5 and 6). NumPy's SeedSequence turns the seed into
 * its state (https://numpy.org/doc/stable/reference/random/bit_generators/generated/numpy.random.SeedSequence.html).
 */

/** A seed is an unsigned 64-bit integer. */
export const NUM_SEEDS = 1n << 64n;

const MASK_64 = NUM_SEEDS - 1n;
const MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n; // PCG's default multiplier for 128 bits

// Constants of SeedSequence (numpy/random/bit_generator.pyx).
const POOL_SIZE = 4; // 32-bit words
const SHIFT = 16; // bits
const POOL_HASH = { start: 0x43b0d7e5, factor: 0x931e8875 };
const STATE_HASH = { start: 0x8b51f9dd, factor: 0x58f38ded };
const MIX_LEFT = 0xca01f9dd;
const MIX_RIGHT = 0x4973f715;

/** A source of random numbers. */
export interface RandomGenerator {
  /** Return the next number: uniform in [0, 1), a multiple of 2^-53. */
  random(): number;
}

/** Return the generator of a row: the generator of a single request with seed `seed + row` (mod 2^64). */
export function rngFor(seed: bigint | number, row: number): RandomGenerator {
  return pcg64((BigInt(seed) + BigInt(row)) % NUM_SEEDS);
}

/** Return a random 64-bit seed from the operating system. */
export function randomSeed(): bigint {
  return crypto.getRandomValues(new BigUint64Array(1))[0]!;
}

function pcg64(seed: bigint): RandomGenerator {
  const [stateHigh, stateLow, streamHigh, streamLow] = seedWords(seed) as [bigint, bigint, bigint, bigint];
  // Of two streams that differ only in the highest bit, both get the same increment: it must be odd.
  const increment = ((((streamHigh << 64n) | streamLow) << 1n) | 1n) & MASK_128;
  const next = (state: bigint): bigint => (state * MULTIPLIER + increment) & MASK_128;
  let state = next((next(0n) + ((stateHigh << 64n) | stateLow)) & MASK_128);
  return {
    random() {
      state = next(state);
      const folded = (state >> 64n) ^ (state & MASK_64);
      const rotation = state >> 122n; // the 6 highest bits
      const rotated = ((folded >> rotation) | (folded << ((64n - rotation) & 63n))) & MASK_64;
      return Number(rotated >> 11n) * 2 ** -53;
    },
  };
}

/** Return four 64-bit words: `SeedSequence(seed).generate_state(4, uint64)`. */
function seedWords(seed: bigint): bigint[] {
  const hash = hasher(POOL_HASH);
  const pool = new Uint32Array(POOL_SIZE);
  pool[0] = Number(seed & 0xffffffffn);
  pool[1] = Number(seed >> 32n);
  for (let word = 0; word < POOL_SIZE; word++) pool[word] = hash(pool[word]!);
  for (let source = 0; source < POOL_SIZE; source++) {
    for (let target = 0; target < POOL_SIZE; target++) {
      if (source !== target) pool[target] = mix(pool[target]!, hash(pool[source]!));
    }
  }
  const expand = hasher(STATE_HASH);
  const words = Array.from({ length: 2 * POOL_SIZE }, (_, index) => BigInt(expand(pool[index % POOL_SIZE]!)));
  return Array.from({ length: POOL_SIZE }, (_, index) => words[2 * index]! | (words[2 * index + 1]! << 32n));
}

/** Return a hash of 32-bit words whose constant changes with each word. */
function hasher({ start, factor }: { start: number; factor: number }): (word: number) => number {
  let constant = start;
  return (word) => {
    const mixed = word ^ constant;
    constant = Math.imul(constant, factor);
    return fold(Math.imul(mixed, constant));
  };
}

function mix(left: number, right: number): number {
  return fold(Math.imul(MIX_LEFT, left) - Math.imul(MIX_RIGHT, right));
}

/** Return a word, xor its upper half, as an unsigned 32-bit integer. */
function fold(word: number): number {
  return (word ^ (word >>> SHIFT)) >>> 0;
}
