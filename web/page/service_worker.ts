/**
 * The service worker of the page: it makes the page work offline, and gives it threads on every server.
 *
 * It stores the files of the page and of onnxruntime. storage.ts stores the files of bundles.
 */

const CACHE = 'page';
const PAGE_FILES = ['./', 'style.css', 'icon.svg', 'manifest.webmanifest'];
/** Addresses of the page's scripts, each with a hash of the script; the build defines them. */
declare const SCRIPTS: readonly string[];
const ORT_FOLDER = 'ort/';
/** The first status of a server's own failures (RFC 9110, section 15.6). */
const SERVER_ERROR = 500;
/** The headers with which a page is cross-origin isolated, so that WebAssembly gets threads. */
const ISOLATION = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
};

interface ExtendableEvent extends Event {
  waitUntil(done: Promise<unknown>): void;
}

interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}

/** The part of a service worker's global scope that is used here; TypeScript's `lib.dom` describes pages. */
interface Scope {
  readonly registration: { readonly scope: string };
  readonly clients: { claim(): Promise<void> };
  skipWaiting(): Promise<void>;
  addEventListener(type: 'install' | 'activate', listener: (event: ExtendableEvent) => void): void;
  addEventListener(type: 'fetch', listener: (event: FetchEvent) => void): void;
}

const scope = globalThis as unknown as Scope;
const base = scope.registration.scope;
const urlsOf = (files: readonly string[]): ReadonlySet<string> => new Set(files.map((file) => new URL(file, base).href));
const pageUrls = urlsOf(PAGE_FILES);
const scriptUrls = urlsOf(SCRIPTS);
const ortFolder = new URL(ORT_FOLDER, base).href;

// The build writes a hash of the page's files into this file, so browsers install it for each release.
scope.addEventListener('install', (event) => {
  event.waitUntil(storePage());
  void scope.skipWaiting();
});
scope.addEventListener('activate', (event) => event.waitUntil(scope.clients.claim()));
scope.addEventListener('fetch', (event) => {
  const { method, url } = event.request;
  const plain = url.replace(/[?#].*$/, '').replace(/\/index\.html$/, '/');
  const isPage = pageUrls.has(plain) || plain.startsWith(ortFolder);
  if (method !== 'GET') return;
  if (isScript(url)) event.respondWith(answerScript(event.request));
  else if (isPage) event.respondWith(answer(event, plain));
});

/** Store the files of the page, and load the stored files of onnxruntime again, which may be those of an old release. */
async function storePage(): Promise<void> {
  const cache = await caches.open(CACHE);
  const old = (await cache.keys()).map(({ url }) => url).filter((url) => isScript(url) && !scriptUrls.has(url));
  // An open tab may still need those of the previous release.
  for (const url of old.slice(0, -scriptUrls.size)) await cache.delete(url);
  await cache.addAll([...pageUrls, ...scriptUrls].map(fresh));
  for (const { url } of await cache.keys()) if (url.startsWith(ortFolder)) await cache.add(fresh(url)).catch(console.warn);
}

/** Return a request that asks the server even if the browser holds the file. */
function fresh(url: string): Request {
  return new Request(url, { cache: 'no-cache' });
}

/** Return whether a URL is that of a script of this release or of another one. */
function isScript(url: string): boolean {
  const [script, hash = ''] = url.split('?');
  return hash !== '' && [...scriptUrls].some((each) => each.startsWith(`${script}?`));
}

/** Return a stored script: the server has that of the newest release only, and a tab may be older. */
async function answerScript(request: Request): Promise<Response> {
  const stored = await (await caches.open(CACHE)).match(request.url);
  return isolated(stored ?? (await fetch(request, { cache: 'no-cache' })));
}

/** Return a file from the server, and store it; if the server does not answer or fails, return the stored file. */
async function answer(event: FetchEvent, url: string): Promise<Response> {
  const cache = await caches.open(CACHE);
  const response = await fetch(event.request, { cache: 'no-cache' }).catch(() => Response.error());
  if (response.type === 'opaqueredirect') return response; // for example to a login
  if (response.status === 200) event.waitUntil(cache.put(url, response.clone()).catch(console.warn)); // may be full
  if (response.type !== 'error' && response.status < SERVER_ERROR) return isolated(response);
  const stored = await cache.match(url);
  return stored === undefined ? response : isolated(stored);
}

function isolated(response: Response): Response {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}

export {}; // without it, TypeScript takes the names of this file for global ones
