/** Check bundles, for tests/web/test_driver_bundle.py: return null or the message for each folder. */

import { readManifest } from '../../src/bundle/manifest.js';
import { readWeightFiles } from '../../src/bundle/tensor_table.js';
import { folderFiles } from '../../src/node.js';
import { answerJob } from './job.js';
import { valueOrMessage } from './value_or_message.js';

await answerJob<{ folders: string[] }>(({ folders }) =>
  Promise.all(
    folders.map((folder) =>
      valueOrMessage(async () => {
        const files = folderFiles(folder);
        const manifest = await readManifest(files);
        await readWeightFiles(files, manifest);
        for (const [name, spec] of manifest.files) await files.path!(name, spec, () => {});
        return null;
      }),
    ),
  ),
);
