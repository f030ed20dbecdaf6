/** Elements of index.html. */

/** Return the element with an id; throw TypeError if it is missing or of another type. */
export function element<E extends HTMLElement>(id: string, type: new () => E): E {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new TypeError(`index.html has no ${type.name} with the id ${id}`);
  return found;
}

/** Show a text in an element with the role `status`, as an error or not. */
export function showStatus(status: HTMLElement, text: string, isError = false): void {
  status.textContent = text;
  status.classList.toggle('error', isError);
}

/** Return a number of bytes for people, such as `1.62 GB`. */
export function formatBytes(bytes: number): string {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(2)} GB`;
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`;
}
