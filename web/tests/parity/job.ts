/** Input and output of the programs that `tests/web/` compares with the Python driver: JSON files. */

import { readFileSync, writeFileSync } from 'node:fs';

/** Answer the job in the file that the first argument names; write the result to the file of the second. */
export async function answerJob<Job>(answer: (job: Job) => unknown): Promise<void> {
  const [job, result] = process.argv.slice(2) as [string, string];
  const answered = await answer(JSON.parse(readFileSync(job, 'utf8')) as Job);
  writeFileSync(result, JSON.stringify(answered));
}
