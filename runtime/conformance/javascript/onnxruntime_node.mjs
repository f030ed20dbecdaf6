// onnxruntime-node on the CPU. It loads a graph from its path and finds the weight files itself.

import { serve, toOrt } from "./worker.mjs";

await serve(async (load) => {
  const ort = load("onnxruntime-node");
  const sessions = {};
  return {
    version: ort.env.versions.node,
    async open(graph, file) {
      sessions[graph] = await ort.InferenceSession.create(file, { executionProviders: ["cpu"], logSeverityLevel: 3 });
    },
    run: (graph, tensors) => sessions[graph].run(toOrt(ort, tensors)),
  };
});
