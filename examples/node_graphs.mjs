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

// npm packages are looked for in the current folder and in the folders above it.
const require = createRequire(path.resolve("packages.js"));
const ort = require("onnxruntime-node");
const { Tokenizer } = require("@huggingface/tokenizers");
const sharp = require("sharp");

const ints = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);

// Return float32[1, 3, S, S], as the model's training saw images.
async function pixelValues(file, { size, rescale_factor, mean, std }) {
  const image = sharp(file).autoOrient().flatten({ background: "white" }).toColourspace("srgb");
  const pixels = await image.resize(size, size, { fit: "fill", kernel: "cubic" }).raw().toBuffer();
  const values = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++)
    for (let pixel = 0; pixel < size * size; pixel++)
      values[channel * size * size + pixel] = (pixels[3 * pixel + channel] * rescale_factor - mean[channel]) / std[channel];
  return new ort.Tensor("float32", values, [1, 3, size, size]);
}

const [folder, file, prompt] = process.argv.slice(2);
const read = async (name) => JSON.parse(await readFile(path.join(folder, name), "utf8"));
const { graphs, tokens, image, cache, generation, model } = await read("manifest.json");
const sessions = {};
for (const name of ["vision_encoder", "prefill", "decode"])
  sessions[name] = await ort.InferenceSession.create(path.join(folder, graphs[name].file), { logSeverityLevel: 3 });

// Run a graph with those of the feeds that it takes.
function run(name, feeds) {
  return sessions[name].run(Object.fromEntries(sessions[name].inputNames.map((input) => [input, feeds[input]])));
}

const { image_features } = await run("vision_encoder", { pixel_values: await pixelValues(file, image) });
const tokenizer = new Tokenizer(await read(tokens.file), {});
const ids = [tokens.bos, ...tokenizer.encode(`${prompt}\n`, { add_special_tokens: false }).ids];
const used = image_features.dims[1] + ids.length;
const limit = Math.min(generation.max_new_tokens, model.context_length - used);
const feeds = {
  image_features,
  input_ids: ints(ids, [1, ids.length]),
  text_lengths: ints([ids.length], [1]),
  past_lengths: ints([0], [1]),
};
if (cache.update === "in_place") {
  const dims = [1, cache.heads, used + limit, cache.head_dim]; // slots for the prompt and the whole answer
  for (const name of sessions.prefill.inputNames.filter((input) => input.startsWith("past_key")))
    feeds[name] = new ort.Tensor("float32", new Float32Array(dims.reduce((product, size) => product * size)), dims);
}
let outputs = await run("prefill", feeds);
feeds.image_features = new ort.Tensor("float32", new Float32Array(0), [1, 0, image_features.dims[2]]);
feeds.text_lengths = ints([1], [1]);
const chosen = [];
while (chosen.length < limit) {
  const logits = outputs.logits.data;
  for (const id of tokens.suppressed) logits[id] = -Infinity;
  const token = logits.reduce((best, value, id) => (value > logits[best] ? id : best), 0);
  if (tokens.stop.includes(token)) break;
  chosen.push(token);
  feeds.input_ids = ints([token], [1, 1]);
  feeds.past_lengths = ints([used + chosen.length - 1], [1]);
  for (const name of Object.keys(outputs)) feeds[name.replace("present", "past_key_values")] = outputs[name];
  outputs = await run("decode", feeds);
}
console.log(JSON.stringify(chosen));
console.log(tokenizer.decode(chosen, { skip_special_tokens: false }));
