// The part of the WebGPU runtime that runs in Chromium: opens graphs and runs them.

import * as ort from "/ort.webgpu.min.mjs";
import { decode, encode } from "/messages.mjs";

ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = "/";
const sessions = {};

export async function describe() {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw new Error("Chromium offers no WebGPU adapter");
  return { ort: ort.env.versions.web, adapter: adapter.info.device || adapter.info.architecture || adapter.info.vendor };
}

export async function open({ graph, file, data }) {
  sessions[graph] = await ort.InferenceSession.create(`/graphs/${file}`, {
    executionProviders: ["webgpu"],
    externalData: data.map((name) => ({ path: name, data: `/graphs/${name}` })),
    logSeverityLevel: 3,
  });
}

export async function run(graph) {
  const { tensors } = decode(new Uint8Array(await (await fetch("/message")).arrayBuffer()));
  const convert = ([name, { type, data, dims }]) => [name, new ort.Tensor(type, data, dims)];
  const outputs = await sessions[graph].run(Object.fromEntries(Object.entries(tensors).map(convert)));
  await fetch("/message", { method: "POST", body: encode({}, outputs) });
}
