/** The part of page_images.ts that runs in the page. */

import { openImage } from '../../src/image/open.js';
import { valueOrMessage } from './value_or_message.js';

/** Open files of the server. Pixels are returned as an array of levels, uint8[height, width, 3]. */
export function openFiles(names: readonly string[]): Promise<unknown[]> {
  return Promise.all(
    names.map((name) =>
      valueOrMessage(async () => {
        const blob = await (await fetch(`/images/${name}`)).blob();
        const { rgb, warnings } = await openImage(new File([blob], name), { maxPixels: 10_000 });
        return { width: rgb.width, height: rgb.height, levels: Array.from(rgb.data), warnings };
      }),
    ),
  );
}
