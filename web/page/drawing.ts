/** Drawing of boxes, labels and masks into an image, in the resolution of the image: see runtime/detection/drawing.py. */

import type { DrawnMask, DrawnObject } from './messages.js';

/** RGB: the palette of Okabe and Ito without black (https://jfly.uni-koeln.de/color). */
const COLOURS = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
] as const;
const MASK_OPACITY = 0.45;
/** Thickness of a line = shorter side of the image / 250. */
const LINES_PER_SIDE = 250;
/** Height of a label's text = shorter side of the image / 28. */
const LABELS_PER_SIDE = 28;
/** Pixels; text is not legible below. */
const MIN_TEXT_HEIGHT = 11;
/** Width of a label's text, as a fraction of the image's width. */
const MAX_LABEL_WIDTH = 0.75;
/** Height of a label, as a fraction of the image's height. A label that covers more is left out. */
const MAX_LABEL_HEIGHT = 0.2;
/** Luma of 255 above which black text is easier to read than white. */
const BRIGHT = 140;

type Colour = (typeof COLOURS)[number];

/** Return the colour of the object with an index, as CSS. */
export function colourOf(index: number): string {
  return css(COLOURS[index % COLOURS.length] as Colour);
}

/**
 * Draw an image and objects into a canvas, which gets the size of the image.
 *
 * Masks are drawn first, then boxes, then labels, so that no label is covered by another object.
 */
export function draw(canvas: HTMLCanvasElement, image: ImageBitmap, objects: readonly DrawnObject[]): void {
  const { width, height } = image;
  Object.assign(canvas, { width, height });
  const context = canvas.getContext('2d');
  if (context === null) throw new Error(`an image of ${width} x ${height} is too large for this browser`);
  context.fillStyle = 'white'; // the model sees transparent pixels over white
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const side = Math.min(width, height);
  const line = Math.max(2, Math.round(side / LINES_PER_SIDE) + 1);
  const coloured = objects.map((object, index) => ({ object, colour: COLOURS[index % COLOURS.length] as Colour }));
  for (const { object, colour } of coloured) {
    if (object.mask !== null) drawMask(context, object.mask, line, colour);
  }
  for (const { object, colour } of coloured) drawBox(context, object, line, colour);
  context.font = `600 ${Math.max(MIN_TEXT_HEIGHT, Math.round(side / LABELS_PER_SIDE))}px system-ui, sans-serif`;
  for (const { object, colour } of coloured) drawLabel(context, object, colour);
}

/** Draw a translucent mask with an opaque edge, which shows even on an object of the same colour. */
function drawMask(
  context: CanvasRenderingContext2D,
  { left, top, width, height, data }: DrawnMask,
  line: number,
  [red, green, blue]: Colour,
): void {
  const { canvas } = context;
  const layer = new ImageData(width, height);
  const pixels = new Uint32Array(layer.data.buffer);
  const rgba = (alpha: number): number => new Uint32Array(Uint8Array.of(red, green, blue, alpha).buffer)[0]!;
  const [translucent, opaque] = [rgba(Math.round(255 * MASK_OPACITY)), rgba(255)];
  // The mask has no edge where the image ends.
  const inside = (x: number, y: number): boolean =>
    x >= 0 && y >= 0 && x < width && y < height
      ? data[y * width + x] === 1
      : x + left < 0 || y + top < 0 || x + left >= canvas.width || y + top >= canvas.height;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(x, y)) continue;
      const inner = inside(x - line, y) && inside(x + line, y) && inside(x, y - line) && inside(x, y + line);
      pixels[y * width + x] = inner ? translucent : opaque;
    }
  }
  const drawn = new OffscreenCanvas(width, height);
  drawn.getContext('2d')?.putImageData(layer, 0, 0);
  context.drawImage(drawn, left, top);
}

/** Draw a box in its colour between two black lines, which separate it from a background of the same colour. */
function drawBox(context: CanvasRenderingContext2D, { box }: DrawnObject, line: number, colour: Colour): void {
  const [left, top, right, bottom] = box;
  const width = Math.max(1, Math.min(line, Math.min(right - left, bottom - top) / 4)); // a small box is not filled
  const strokes = [
    { style: 'black', width: width * 1.5 },
    { style: css(colour), width },
  ];
  for (const stroke of strokes) {
    context.strokeStyle = stroke.style;
    context.lineWidth = stroke.width;
    context.strokeRect(left + width / 2, top + width / 2, right - left - width, bottom - top - width);
  }
}

/** Draw a label on its object's colour, above the box or inside it at the image's edge. */
function drawLabel(context: CanvasRenderingContext2D, { box, label }: DrawnObject, colour: Colour): void {
  const { width: imageWidth, height: imageHeight } = context.canvas;
  const text = shortened(context, label.replace(/\s+/g, ' ').trim(), MAX_LABEL_WIDTH * imageWidth);
  const { fontBoundingBoxAscent: ascent, fontBoundingBoxDescent: descent } = context.measureText(text);
  const margin = Math.max(1, (ascent + descent) / 5);
  const height = ascent + descent + margin;
  const width = context.measureText(text).width + 2 * margin;
  if (text === '' || height > MAX_LABEL_HEIGHT * imageHeight || width > imageWidth) return;
  const x = Math.max(0, Math.min(box[0], imageWidth - width));
  const y = box[1] >= height ? box[1] - height : box[1];
  context.fillStyle = css(colour);
  context.fillRect(x, y, width, height);
  const [red, green, blue] = colour;
  const luma = 0.299 * red + 0.587 * green + 0.114 * blue; // ITU-R BT.601, section 2.5.1
  context.fillStyle = luma > BRIGHT ? 'black' : 'white';
  context.fillText(text, x + margin, y + margin / 2 + ascent);
}

/** Return a label of at most `maxWidth` pixels; what is cut off is replaced by `...`. */
function shortened(context: CanvasRenderingContext2D, label: string, maxWidth: number): string {
  const fits = (text: string): boolean => context.measureText(text).width <= maxWidth;
  if (fits(label)) return label;
  const characters = [...label];
  while (characters.length > 0 && !fits(`${characters.join('')}...`)) characters.pop();
  return characters.length === 0 ? '' : `${characters.join('')}...`;
}

function css([red, green, blue]: Colour): string {
  return `rgb(${red} ${green} ${blue})`;
}
