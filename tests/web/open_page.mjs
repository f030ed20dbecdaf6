// Open a page in Chromium, wait until its element #answer has the attribute data-finished, and print its text.
//
//     node open_page.mjs URL
//
// Exits with code 3 if Chromium is not installed.

import * as playwright from 'playwright-core';
import { launchChromium } from '../../runtime/conformance/javascript/chromium.mjs';

const TIMEOUT = 300_000; // milliseconds; SwiftShader takes about 10 s on an idle machine
const browser = await launchChromium(playwright).catch((error) => {
  if (!error.missing) throw error;
  console.error(`${error.missing} is not installed`);
  process.exit(3);
});
const page = await browser.newPage();
page.on('console', (message) => console.error(message.text()));
page.on('pageerror', (error) => console.error(error.message));
await page.goto(process.argv[2]);
const answer = page.locator('#answer[data-finished]');
await answer.waitFor({ state: 'attached', timeout: TIMEOUT });
console.log(await answer.textContent());
await browser.close();
