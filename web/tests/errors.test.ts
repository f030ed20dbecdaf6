import assert from 'node:assert/strict';
import { test } from 'node:test';

import { BundleError, NumericsError, PaliGemmaError } from '../src/index.js';

test('an error has its class, its name and its exit code', () => {
  const error = new NumericsError('the graphs computed NaN logits');
  assert.ok(error instanceof BundleError && error instanceof PaliGemmaError);
  assert.equal(error.name, 'NumericsError');
  assert.equal(error.exitCode, 4);
});
