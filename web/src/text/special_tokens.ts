/** Special tokens of PaliGemma's vocabulary. */

export const BOS = '<bos>';
export const EOS = '<eos>';
export const PAD = '<pad>';
export const UNK = '<unk>';
export const IMAGE = '<image>';
/** No prompt contains one of these. */
export const CONTROL_TOKENS: readonly string[] = [BOS, EOS, PAD, UNK, IMAGE];

/** `<loc0000>` is the image's top or left edge, `<loc1023>` its bottom or right edge. */
export const LAST_LOCATION = 1023;
/** `<seg000>` to `<seg127>`: tokens of masks. */
export const LAST_SEGMENT = 127;
