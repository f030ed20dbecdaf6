/** Section 2 of the page: an image from a file, a drop, the clipboard or the camera, and its drawing. */

import { draw } from './drawing.js';
import { element, showStatus } from './elements.js';
import type { DrawnObject } from './messages.js';
import { uprightBitmap } from './upright_bitmap.js';

/** The chosen image: the content of its file for the model, and its pixels for the drawing. */
export interface ChosenImage {
  readonly file: Blob;
  readonly bitmap: ImageBitmap;
}

export interface ImagePanel {
  /** null: no image was chosen. */
  readonly chosen: ChosenImage | null;
  drawObjects(objects: readonly DrawnObject[]): void;
  /** Download the drawing as a PNG file. */
  download(): Promise<void>;
}

/**
 * Connect the section with functions.
 *
 * @param onChange is called after another image was chosen.
 */
export function imagePanel(onChange: () => void): ImagePanel {
  const canvas = element('drawing', HTMLCanvasElement);
  const status = element('image-status', HTMLParagraphElement);
  const section = element('image', HTMLElement);
  let chosen: ChosenImage | null = null;
  let choices = 0;

  const choose = async (file: Blob): Promise<void> => {
    const name = file instanceof File && file.name !== '' ? file.name : 'the image';
    const choice = ++choices;
    const bitmap = await uprightBitmap(file).catch(() => null);
    if (choice !== choices) return bitmap?.close(); // a later choice was decoded sooner
    if (bitmap === null) {
      showStatus(status, `${name} is damaged, or no image that this browser can decode; use JPEG, PNG or WebP`, true);
      return;
    }
    chosen?.bitmap.close();
    chosen = { file, bitmap };
    draw(canvas, bitmap, []);
    canvas.setAttribute('aria-label', name);
    showStatus(status, `${name}, ${bitmap.width} x ${bitmap.height} pixels`);
    onChange();
  };
  const chooseFrom = (files: FileList | null | undefined): boolean => {
    const file = [...(files ?? [])].find(({ type }) => type.startsWith('image/')) ?? files?.[0];
    if (file !== undefined) void choose(file);
    return file !== undefined;
  };
  /** Text that is dropped or pasted into a field stays the browser's matter. Programs add an image to copied text. */
  const isText = ({ target }: Event, data: DataTransfer | null): boolean =>
    target instanceof HTMLInputElement && data !== null && data.types.includes('text/plain');

  const input = element('image-file', HTMLInputElement);
  input.addEventListener('change', () => {
    chooseFrom(input.files);
    input.value = '';
  });
  for (const type of ['dragover', 'dragleave', 'drop'] as const) {
    document.addEventListener(type, (event) => {
      const data = event.dataTransfer;
      if (isText(event, data)) return;
      event.preventDefault(); // otherwise the browser shows the file instead of the page
      section.classList.toggle('over', type === 'dragover' && data?.types.includes('Files') === true);
      if (type !== 'drop' || chooseFrom(data?.files)) return;
      showStatus(status, 'The drop contained no file; save the image first, then drop its file here.', true);
    });
  }
  document.addEventListener('paste', (event) => {
    if (!isText(event, event.clipboardData) && chooseFrom(event.clipboardData?.files)) event.preventDefault();
  });
  connectCamera(status, choose);

  return {
    get chosen() {
      return chosen;
    },
    drawObjects(objects) {
      if (chosen === null) return;
      draw(canvas, chosen.bitmap, objects);
      const labels = objects.map(({ label }) => label).join(', ');
      canvas.setAttribute('aria-label', objects.length === 0 ? 'Image' : `Image with boxes around: ${labels}`);
    },
    async download() {
      const drawing = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve));
      if (drawing === null) throw new Error('the drawing is too large for this browser');
      const link = document.createElement('a');
      link.href = URL.createObjectURL(drawing);
      link.download = 'drawing.png';
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // after the download has begun
    },
  };
}

/** Connect the camera's button and dialog; a photo is given to `choose`. */
function connectCamera(status: HTMLElement, choose: (photo: Blob) => Promise<void>): void {
  const dialog = element('camera-dialog', HTMLDialogElement);
  const video = element('viewfinder', HTMLVideoElement);
  const button = element('camera', HTMLButtonElement);
  const open = async (): Promise<void> => {
    button.disabled = true; // a second stream would replace the first one without ending it
    try {
      const constraints = { video: { facingMode: 'environment' } };
      video.srcObject = await navigator.mediaDevices.getUserMedia(constraints);
      dialog.showModal();
    } catch (error) {
      showStatus(status, `The camera cannot be opened (${String(error)}); permit it in the browser's settings.`, true);
    } finally {
      button.disabled = false;
    }
  };
  const shoot = async (): Promise<void> => {
    if (video.videoWidth === 0) return; // the camera has sent nothing yet
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext('2d')?.drawImage(video, 0, 0);
    dialog.close();
    await choose(new File([await canvas.convertToBlob()], 'photo.png', { type: 'image/png' }));
  };
  button.addEventListener('click', () => void open());
  element('shoot', HTMLButtonElement).addEventListener('click', () => void shoot());
  element('close-camera', HTMLButtonElement).addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => {
    if (video.srcObject instanceof MediaStream) for (const track of video.srcObject.getTracks()) track.stop();
    video.srcObject = null;
  });
}
