/** Inputs that are refused, and the sentences that say so. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { BundleError, ImageError, OptionError } from '../src/index.js';
import { checkSampling } from '../src/generation/sampling.js';
import { type ImageInput, openImage } from '../src/image/open.js';
import { openPicture } from '../src/image/picture.js';
import { loadTokenizer } from '../src/text/tokenizer.js';

const SHIPPED = new URL('../../../export/demo/paligemma-scenes/tokenizer.json', import.meta.url);
const FACTS = { size: 4, mean: [0, 0, 0], std: [1, 1, 1], rescaleFactor: 1 / 255 };

const refusedImage = (source: unknown, words: RegExp): Promise<void> =>
  assert.rejects(openImage(source as ImageInput), (error) => {
    assert.ok(error instanceof ImageError);
    assert.match(error.message, words);
    return true;
  });

test('images that are refused', async () => {
  await refusedImage('photo.jpg', /must be a Blob/);
  await refusedImage(null, /must be a Blob/);
  await refusedImage({ data: [0, 0, 0], width: 1, height: 1 }, /must be a Blob/);
  await refusedImage({ data: new Uint8Array(5), width: 2, height: 1 }, /5 bytes for 2 x 1 pixels/);
  await refusedImage({ data: new Uint8Array(0), width: 0, height: 3 }, /no pixels/);
  await refusedImage(new Uint8Array(0), /is empty/);
  await refusedImage(new Blob(['GIF89a']), /the image cannot be decoded: Node has no image decoder/);
  await refusedImage(new File(['GIF89a'], 'photo.gif'), /^photo\.gif cannot be decoded/);
  await refusedImage(Uint8Array.of(0xff, 0xd8, 0xff, 0xe1, 0, 9), /the image of 6 bytes cannot be decoded/);
  const pixels = { data: new Uint8Array(1), width: 1, height: 1 };
  await assert.rejects(openImage(pixels, { maxPixels: 0.5 }), OptionError);
  const picture = await openPicture(pixels, FACTS);
  assert.equal(await openPicture(picture, FACTS), picture);
  await assert.rejects(openPicture(picture, { ...FACTS, size: 8 }), /bundle of 4 pixels, this bundle has 8/);
});

test('options of sampling that are refused', () => {
  const options = { temperature: 0, topK: 0, topP: 1, repetitionPenalty: 1, suppressTokens: [] as number[] };
  checkSampling({ ...options, seed: 2n ** 64n - 1n });
  checkSampling({ ...options, seed: 0 });
  const refused = [
    { temperature: -1 },
    { temperature: NaN },
    { topK: 1.5 },
    { topP: 0 },
    { topP: 1.1 },
    { repetitionPenalty: 0 },
    { suppressTokens: [0.5] },
    { seed: 2n ** 64n },
    { seed: -1 },
    { seed: 2 ** 60 },
  ];
  for (const change of refused) {
    const [name] = Object.keys(change) as [string];
    assert.throws(
      () => checkSampling({ ...options, ...change }),
      (error) => error instanceof OptionError && error.message.startsWith(name),
      name,
    );
  }
});

test('files that are no tokenizer of PaliGemma', () => {
  const shipped = JSON.parse(readFileSync(SHIPPED, 'utf8'));
  const refused: [string, RegExp][] = [
    ['version https://git-lfs.github.com/spec/v1', /Git LFS pointer/],
    ['{"model": ', /cut short or is not JSON/],
    ['{}', /a field is missing/],
    ['null', /a field is missing/],
    [JSON.stringify({ ...shipped, normalizer: { type: 'NFC' } }), /its normalizer, pre-tokenizer or decoder differ/],
    [JSON.stringify({ ...shipped, model: { ...shipped.model, type: 'Unigram' } }), /not a plain BPE model/],
    [JSON.stringify({ ...shipped, added_tokens: shipped.added_tokens.slice(0, -1).concat([{ id: 9 }]) }), /added tokens/],
  ];
  for (const [content, words] of refused) {
    assert.throws(
      () => loadTokenizer(content, 'bundle/tokenizer.json'),
      (error) => {
        assert.ok(error instanceof BundleError);
        assert.match(error.message, /^bundle\/tokenizer\.json: .*copy tokenizer\.json from the checkpoint again$/);
        assert.match(error.message, words);
        return true;
      },
    );
  }
});
