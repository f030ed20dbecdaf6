// onnxruntime-web with WebGPU in Chromium.
//
// Chromium loads webgpu_page.mjs from a server in this process, and exchanges the messages of messages.mjs with it.

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { START_MS, launchChromium } from "./chromium.mjs";
import { decode, encode } from "./messages.mjs";
import { serve } from "./worker.mjs";

const TYPES = { ".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html" };

// Serve the page, onnxruntime's files, and the files of open graphs, by name, to this machine only.
async function startServer(shared) {
  const server = createServer(async (request, response) => {
    const name = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1);
    const send = (status, type, body) => response.writeHead(status, { "content-type": type }).end(body);
    if (name === "") return send(200, "text/html", "<!doctype html><title>conformance</title>");
    if (name === "message") {
      if (request.method === "GET") return send(200, "application/octet-stream", shared.message);
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      shared.answer = Buffer.concat(chunks);
      return send(204, "text/plain", "");
    }
    const file = shared.files[name];
    if (file === undefined) return send(404, "text/plain", "");
    send(200, TYPES[path.extname(file)] ?? "application/octet-stream", await readFile(file));
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  return server;
}

await serve(async (load) => {
  const playwright = load("playwright-core");
  const dist = path.dirname(load.resolve("onnxruntime-web"));
  const shared = { message: null, answer: null, files: {} };
  for (const name of ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"])
    shared.files[name] = path.join(dist, name);
  for (const name of ["messages.mjs", "webgpu_page.mjs"]) shared.files[name] = path.join(import.meta.dirname, name);
  const browser = await launchChromium(playwright);
  const server = await startServer(shared);
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${server.address().port}/`, { timeout: START_MS });
  const { ort, adapter } = await page.evaluate(async () => (await import("/webgpu_page.mjs")).describe());
  return {
    version: `${ort} (Chromium ${browser.version()}, ${adapter})`,
    async open(graph, file, data) {
      const names = data.map((name) => path.basename(name));
      for (const each of [file, ...data]) shared.files[`graphs/${path.basename(each)}`] = each;
      const arguments_ = { graph, file: path.basename(file), data: names };
      await page.evaluate(async (each) => (await import("/webgpu_page.mjs")).open(each), arguments_);
    },
    async run(graph, tensors) {
      shared.message = encode({}, tensors);
      await page.evaluate(async (each) => (await import("/webgpu_page.mjs")).run(each), graph);
      return decode(shared.answer).tensors;
    },
    async close() {
      await browser.close();
      server.close();
    },
  };
});
