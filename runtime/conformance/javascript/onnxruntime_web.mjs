// onnxruntime-web in Node: WebAssembly on the CPU. The graph and its weight files are handed over as bytes.

import { readFile } from "node:fs/promises";
import path from "node:path";
import { serve, toOrt } from "./worker.mjs";

await serve(async (load) => {
  const ort = load("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
  const sessions = {};
  return {
    version: ort.env.versions.web,
    async open(graph, file, data) {
      const read = async (name) => ({ path: path.basename(name), data: await readFile(name) });
      sessions[graph] = await ort.InferenceSession.create(await readFile(file), {
        executionProviders: ["wasm"],
        externalData: await Promise.all(data.map(read)),
        logSeverityLevel: 3,
      });
    },
    run: (graph, tensors) => sessions[graph].run(toOrt(ort, tensors)),
  };
});
