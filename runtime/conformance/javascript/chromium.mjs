// Start Chromium without a window.

import { existsSync } from "node:fs";
import path from "node:path";

const PROGRAMS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const SANDBOX = "--no-sandbox"; // containers often forbid the sandbox; the page loads nothing from another host
// WebGPU on SwiftShader, which needs no GPU.
const WEBGPU = [
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--use-vulkan=swiftshader",
  "--enable-features=Vulkan",
];

export const START_MS = 300_000; // milliseconds in which Chromium starts and opens a page on a busy machine

// Return Playwright's browser, started from an installed Chromium or Chrome, or from the one that Playwright
// installed. The error has the property `missing` if there is none.
export function launchChromium(playwright, flags = WEBGPU) {
  const folders = (process.env.PATH ?? "").split(path.delimiter);
  const programs = PROGRAMS.flatMap((name) => folders.map((folder) => path.join(folder, name)));
  const found = [...programs, playwright.chromium.executablePath()].find((program) => existsSync(program));
  if (found === undefined) throw Object.assign(new Error("no Chromium"), { missing: "Chromium" });
  return playwright.chromium.launch({ executablePath: found, args: [SANDBOX, ...flags], timeout: START_MS });
}
