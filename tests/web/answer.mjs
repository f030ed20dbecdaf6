// Answer requests with transformers.js, in Node or in a browser.
//
// library: the module of transformers.js; model: name of the model's folder; options: of from_pretrained;
// requests: as in generate.mjs; read: returns the float32 values of a file.

export async function answer(library, model, options, requests, read) {
  const processor = await library.AutoProcessor.from_pretrained(model);
  const paligemma = await library.PaliGemmaForConditionalGeneration.from_pretrained(model, options);
  const answers = [];
  for (const request of requests) {
    const images = await Promise.all(request.images.map((file) => library.RawImage.read(file)));
    const inputs = await processor(images, request.texts, { padding: true });
    if (request.pixels) {
      const values = await read(request.pixels);
      inputs.pixel_values = new library.Tensor('float32', values, inputs.pixel_values.dims);
    }
    const output = await paligemma.generate({ ...inputs, max_new_tokens: request.tokens });
    const prompt = inputs.input_ids.dims[1];
    answers.push({
      prompts: inputs.input_ids.tolist().map((row) => row.map(Number)),
      ids: output.tolist().map((row) => row.slice(prompt).map(Number)),
      texts: processor.batch_decode(output.slice(null, [prompt, null]), { skip_special_tokens: true }),
    });
  }
  await paligemma.dispose();
  return answers;
}
