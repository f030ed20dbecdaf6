/**
 * The service worker of the page: it makes the page work offline, and gives it threads on every server.
 *
 * It stores the files of the page and of onnxruntime. storage.ts stores the files of bundles.
 */

const CACHE = 'page';
const PAGE_FILES = ['./', 'main.js', 'worker.js', 'style.css', 'icon.svg', 'manifest.webmanifest'];
const ORT_FOLDER = 'ort/';
/** The headers with which a page is cross-origin isolated, so that WebAssembly gets threads. */
const ISOLATION = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
};

interface ExtendableEvent extends Event {
  waitUntil(done: Promise<unknown>): void;
}

interface FetchEvent extends Event {
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
const pageUrls = new Set(PAGE_FILES.map((file) => new URL(file, base).href));
const ortFolder = new URL(ORT_FOLDER, base).href;

scope.addEventListener('install', (event) => {
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll([...pageUrls])));
  void scope.skipWaiting();
});
scope.addEventListener('activate', (event) => event.waitUntil(scope.clients.claim()));
scope.addEventListener('fetch', (event) => {
  const { method, mode, url } = event.request;
  const plain = url.replace(/[?#].*$/, '').replace(/\/index\.html$/, '/');
  const isPage = pageUrls.has(plain) || plain.startsWith(ortFolder);
  if (method === 'GET' && (isPage || (mode === 'navigate' && plain === base))) event.respondWith(answer(event.request, plain));
});

/** Return a file from the server, and store it; if the server is out of reach, return the stored file. */
async function answer(request: Request, url: string): Promise<Response> {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request);
    if (response.status === 200) await cache.put(url, response.clone());
    return isolated(response);
  } catch (error) {
    const stored = await cache.match(url);
    if (stored === undefined) throw error;
    return isolated(stored);
  }
}

function isolated(response: Response): Response {
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
