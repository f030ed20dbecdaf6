import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

import type { BundleFiles } from '../src/bundle/files.js';
import { folderFiles } from '../src/bundle/folder_files.js';
import { localFiles } from '../src/bundle/local_files.js';
import { partsOf } from '../src/bundle/read_stream.js';
import type { FileSpec } from '../src/bundle/schema.js';
import { urlFiles } from '../src/bundle/url_files.js';
import { BundleError } from '../src/index.js';

const CONTENT = Buffer.from('weights '.repeat(40_000)); // several chunks of a stream
const POINTER = Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:0\n');
const FILES: Record<string, Buffer> = {
  'whole file.data': CONTENT,
  'cut.data': CONTENT.subarray(0, 300_000),
  'long.data': Buffer.concat([CONTENT, CONTENT]),
  'altered.data': Buffer.concat([CONTENT.subarray(1), Buffer.from('x')]),
  'pointer.data': POINTER,
};
const SPEC: FileSpec = { bytes: CONTENT.length, sha256: createHash('sha256').update(CONTENT).digest('hex') };
const LARGE: FileSpec = { ...SPEC, bytes: 2 ** 31 };

let folder: string;
let server: Server;
const sources: Record<string, () => BundleFiles> = {
  folder: () => folderFiles(folder),
  url: () => urlFiles(`http://127.0.0.1:${(server.address() as AddressInfo).port}/some/bundle`),
  files: () => localFiles(chosenFiles()),
};

/** Return files as a browser's dialog for folders gives them, and a file of another folder. */
function chosenFiles(): File[] {
  const chosen = Object.entries({ ...FILES, 'manifest.json': Buffer.from('{}') }).map(([name, content]) =>
    Object.defineProperty(new File([content], name), 'webkitRelativePath', { value: `bundle/${name}` }),
  );
  const other = new File(['other'], 'missing.data');
  return [Object.defineProperty(other, 'webkitRelativePath', { value: 'bundle/sub/missing.data' }), ...chosen];
}

before(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'bundle-'));
  for (const [name, content] of Object.entries(FILES)) writeFileSync(path.join(folder, name), content);
  server = createServer((request, response) => {
    const name = decodeURIComponent(request.url ?? '').replace('/some/bundle/', '');
    if (name === 'broken.data') return response.writeHead(500, 'Server Error').end();
    const content = FILES[name];
    return content === undefined ? response.writeHead(404).end() : response.writeHead(200).end(content);
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
});

after(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});

for (const [kind, source] of Object.entries(sources)) {
  test(`${kind}: a file is read whole, with progress`, async () => {
    const progress: number[] = [];
    const bytes = await source().read('whole file.data', SPEC, (each) => progress.push(each));
    assert.ok(Buffer.from(bytes).equals(CONTENT));
    assert.equal(progress.at(-1), CONTENT.length);
    assert.deepEqual(progress, [...progress].sort((left, right) => left - right));
  });

  const damaged: [file: string, spec: FileSpec, message: RegExp][] = [
    ['cut.data', SPEC, /cut\.data: is cut: it has 300000 bytes instead of 320000; copy the bundle again/],
    ['long.data', SPEC, /long\.data: has \d+ bytes instead of 320000; copy the bundle again/],
    ['altered.data', SPEC, /altered\.data: is altered \(another SHA-256\); copy the bundle again/],
    ['pointer.data', SPEC, /pointer\.data: a Git LFS pointer, not the file itself; run `git lfs pull`/],
    ['missing.data', SPEC, /missing\.data: (no such file|is missing); (copy the|choose|`paligemma-onnx export)/],
    ['whole file.data', LARGE, /has 2147483648 bytes, and JavaScript holds at most 2147483647 in one buffer; export/],
  ];
  for (const [file, spec, message] of damaged) {
    test(`${kind}: the message about ${file} of ${spec.bytes} bytes`, async () => {
      await assert.rejects(() => source().read(file, spec, () => {}), { name: 'BundleError', message });
    });
  }

  test(`${kind}: an aborted signal stops the reading with its reason`, async () => {
    const controller = new AbortController();
    const reading = source().read('whole file.data', SPEC, () => controller.abort(new Error('stop')), controller.signal);
    await assert.rejects(reading, /stop/);
  });

  test(`${kind}: a small file has a limit`, async () => {
    assert.equal((await source().readSmall('pointer.data', 100)).length, POINTER.length);
    await assert.rejects(() => source().readSmall('whole file.data', 100), /larger than 100 bytes; export/);
  });
}

test('among several bundles in a chosen folder, the outermost is used', async () => {
  const manifest = (folder: string) =>
    Object.defineProperty(new File([folder], 'manifest.json'), 'webkitRelativePath', { value: `${folder}/manifest.json` });
  const read = async (...folders: string[]): Promise<string> =>
    new TextDecoder().decode(await localFiles(folders.map(manifest)).readSmall('manifest.json', 100));
  assert.equal(await read('a/old', 'a', 'a/older'), 'a');
  await assert.rejects(read('a/one', 'a/two'), /^BundleError: a\/one\/manifest.json and a\/two\/manifest.json: two/);
});

test('a path that is not a URL', () => {
  assert.throws(() => urlFiles('some/bundle'), /^OptionError: some\/bundle: is not a URL; .* use folderFiles in Node/);
});

test('a path is that of a checked file', async () => {
  const { path: check } = folderFiles(folder);
  assert.equal(await check!('whole file.data', SPEC, () => {}), path.join(folder, 'whole file.data'));
  await assert.rejects(() => check!('altered.data', SPEC, () => {}), /altered\.data: is altered/);
  await assert.rejects(() => check!('cut.data', SPEC, () => {}), /cut\.data: is cut/);
});

test('a server that fails, and a server that cannot be reached', async () => {
  const read = (files: BundleFiles) => files.read('broken.data', SPEC, () => {});
  await assert.rejects(() => read(sources.url!()), /broken\.data: the server answers 500 Server Error; check/);
  const unreachable = urlFiles('http://127.0.0.1:1/bundle/');
  await assert.rejects(() => read(unreachable), {
    name: 'BundleError',
    message: /^http:\/\/127\.0\.0\.1:1\/bundle\/broken\.data: cannot be loaded \(.+\); check the address/,
  });
});

test('a response with other bytes than its header says', async () => {
  const body = new ReadableStream({
    start(controller) {
      controller.enqueue(new Uint8Array(10));
      controller.error(new TypeError('the connection was lost'));
    },
  });
  const files = urlFiles('https://example.org/bundle', async () => new Response(body));
  await assert.rejects(() => files.read('a.data', SPEC, () => {}), (error) => {
    assert.ok(error instanceof BundleError);
    assert.match(error.message, /a\.data: cannot be loaded \(the connection was lost\); check/);
    return true;
  });
});

test('a stream of bytes is read into the same memory, and other streams are read, too', async () => {
  for (const type of ['bytes', undefined] as const) {
    let left = 5;
    const source = {
      type,
      pull(controller: ReadableStreamDefaultController<Uint8Array>) {
        if (left > 0) controller.enqueue(Uint8Array.of(left, left));
        if (--left <= 0) controller.close();
      },
    };
    const levels: number[] = [];
    const parts: Uint8Array[] = [];
    for await (const part of partsOf(new ReadableStream(source as UnderlyingDefaultSource<Uint8Array>))) {
      levels.push(...part);
      parts.push(part);
    }
    assert.deepEqual(levels, [5, 5, 4, 4, 3, 3, 2, 2, 1, 1]);
    const kept = parts.filter(({ byteLength }) => byteLength > 0); // memory that is used again leaves an empty part
    assert.equal(kept.length, type === 'bytes' ? 0 : 5);
  }
});
