// Serve requests of the command: messages on stdin, answers on stdout.
//
// A request is {command: "open", graph, path, data: [paths]} or {command: "run", graph} with tensors. The answer
// is {} with tensors, or {error: message}. The first answer, without a request, is {version} or {missing}.

import { createRequire } from "node:module";
import path from "node:path";
import { decode, encode, messageSize } from "./messages.mjs";

// Return a function that loads an npm package from the `node_modules` of a folder or of a folder above it; its
// property `resolve` returns the path of a package's main file. The error of a package that is not installed has
// the property `missing`.
function packagesOf(folder) {
  const require = createRequire(path.join(path.resolve(folder), "packages.js"));
  const naming = (action) => (name) => {
    try {
      return action(name);
    } catch (error) {
      if (error.code !== "MODULE_NOT_FOUND") throw error;
      throw Object.assign(new Error(error.message), { missing: `the npm package ${name}` });
    }
  };
  return Object.assign(naming(require), { resolve: naming(require.resolve) });
}

// Start an engine {version, open(graph, path, data), run(graph, tensors), close()} and serve requests until
// stdin ends.
export async function serve(start) {
  const write = process.stdout.write.bind(process.stdout);
  process.stdout.write = process.stderr.write.bind(process.stderr); // libraries print to stdout
  const answer = (header, tensors) => new Promise((done) => write(encode(header, tensors), done));
  let engine;
  try {
    engine = await start(packagesOf(process.argv[2]));
  } catch (error) {
    await answer(error.missing ? { missing: error.missing } : { error: error.message });
    process.exit();
  }
  await answer({ version: engine.version });
  // If the command was killed during a run, this process would otherwise finish the run first.
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.exit(1), 1000).unref();
  let chunks = [];
  let received = 0; // bytes of the chunks
  for await (const chunk of process.stdin) {
    chunks.push(chunk);
    received += chunk.length;
    if (received < messageSize(chunks[0])) continue;
    const { header, tensors } = decode(Buffer.concat(chunks)); // the command sends nothing before the answer
    [chunks, received] = [[], 0];
    try {
      if (header.command === "open") {
        await engine.open(header.graph, header.path, header.data);
        await answer({});
      } else {
        await answer({}, await engine.run(header.graph, tensors));
      }
    } catch (error) {
      await answer({ error: error.message ?? String(error) });
    }
  }
  await engine.close?.();
  process.exit();
}

// Convert tensors of a message to tensors of onnxruntime.
export function toOrt(ort, tensors) {
  const convert = ([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)];
  return Object.fromEntries(Object.entries(tensors).map(convert));
}
