"""HTTP headers of every response of a website, for the included server and for static hosts."""

from __future__ import annotations

CONTENT_SECURITY_POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'wasm-unsafe-eval'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "connect-src": "'self' https: http://localhost:* http://127.0.0.1:*",  # bundles at other addresses
    "worker-src": "'self'",
    "media-src": "'self' blob:",
    "manifest-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
# A page is cross-origin isolated with the first two headers. Browsers give threads to isolated pages only.
HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Content-Security-Policy": "; ".join(map(" ".join, CONTENT_SECURITY_POLICY.items())),
    "X-Content-Type-Options": "nosniff",
    # A site that is written again keeps its file names, so browsers ask whether a file has changed.
    "Cache-Control": "no-cache",
}
HEADERS_FILE = "_headers"  # read by Netlify and Cloudflare Pages


def headers_file() -> str:
    """Return the text of a `_headers` file that adds the headers to every response."""
    return "/*\n" + "".join(f"  {name}: {value}\n" for name, value in HEADERS.items())
