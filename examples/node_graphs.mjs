// Answer a prompt in Node: the graphs of a bundle, onnxruntime-node, a tokenizer and sharp for the image.
//
//     npm install onnxruntime-node @huggingface/tokenizers sharp
//     node examples/node_graphs.mjs demo-output/bundle export/demo/scene.png "caption en"
//
// It runs bundles for CPUs in every precision, greedily. sharp resizes an image with other rounding than Pillow, so
// an answer may differ from that of the Python package unless the image already has the model's size.

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";

import { decode, pixelValues } from "./decode_loop.mjs";

// npm packages are looked for in the current folder and in the folders above it.
const require = createRequire(path.resolve("packages.js"));
const ort = require("onnxruntime-node");
const { Tokenizer } = require("@huggingface/tokenizers");
const sharp = require("sharp");

const [folder, file, prompt] = process.argv.slice(2);
const read = async (name) => JSON.parse(await readFile(path.join(folder, name), "utf8"));
const manifest = await read("manifest.json");
const sessions = {};
for (const name of ["vision_encoder", "prefill", "decode"])
  sessions[name] = await ort.InferenceSession.create(path.join(folder, manifest.graphs[name].file), { logSeverityLevel: 3 });

const { size } = manifest.image;
const image = sharp(file).autoOrient().flatten({ background: "white" }).toColourspace("srgb");
const levels = await image.resize(size, size, { fit: "fill", kernel: "cubic" }).raw().toBuffer();
const tokenizer = new Tokenizer(await read(manifest.tokens.file), {});
const ids = await decode(ort, sessions, manifest, tokenizer, pixelValues(ort, levels, manifest.image), prompt);
console.log(JSON.stringify(ids));
console.log(tokenizer.decode(ids, { skip_special_tokens: false }));
