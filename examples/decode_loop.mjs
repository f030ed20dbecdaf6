// What node_graphs.mjs and browser_graphs.html share: the tensor of an image, and the decode loop.

// Return float32[1, 3, S, S], as the model's training saw images, of uint8[S, S, channels]; a fourth channel is ignored.
export function pixelValues(ort, levels, { size, rescale_factor, mean, std }) {
  const channels = levels.length / size ** 2;
  const values = new Float32Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++)
    for (let pixel = 0; pixel < size * size; pixel++)
      values[channel * size * size + pixel] =
        (levels[channels * pixel + channel] * rescale_factor - mean[channel]) / std[channel];
  return new ort.Tensor("float32", values, [1, 3, size, size]);
}

// Return the ids of the greedy answer to a prompt. sessions: {vision_encoder, prefill, decode}.
export async function decode(ort, sessions, manifest, tokenizer, pixel_values, prompt) {
  const { tokens, cache, generation, model, graphs } = manifest;
  const ints = (values, dims) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
  // Run a graph with those of the feeds that it takes.
  const run = (name, feeds) =>
    sessions[name].run(Object.fromEntries(sessions[name].inputNames.map((input) => [input, feeds[input]])));

  const { image_features } = await run("vision_encoder", { pixel_values });
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
    for (const { name, shape } of graphs.prefill.inputs.filter((input) => input.name.startsWith("past_key"))) {
      const dims = [...shape];
      dims[0] = 1;
      dims[dims.length - 2] = used + limit; // slots for the prompt and the whole answer
      feeds[name] = new ort.Tensor("float32", new Float32Array(dims.reduce((product, size) => product * size)), dims);
    }
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
  return chosen;
}
