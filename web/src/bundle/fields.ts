/** Readers of JSON data. Missing, unknown and mistyped fields are errors that name the field. */

/** A field is missing, unknown or of a wrong type, or its value contradicts another field. */
export class FieldError extends Error {}

/** Return `value` with its type, or throw a FieldError that names the field `path`. */
export type Reader<T> = (value: unknown, path: string) => T;

type Fields = Record<string, Reader<unknown>>;
type ObjectOf<F extends Fields> = { readonly [Name in keyof F]: ReturnType<F[Name]> };

const wrongType = (path: string): never => {
  throw new FieldError(`${path} is of a wrong type`);
};

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Read a finite number. */
export const number: Reader<number> = (value, path) => (typeof value === 'number' ? value : wrongType(path));

/** Read a whole number. */
export const integer: Reader<number> = (value, path) =>
  Number.isInteger(value) ? (value as number) : wrongType(path);

/** Read a text. */
export const text: Reader<string> = (value, path) => (typeof value === 'string' ? value : wrongType(path));

/** Return a reader of one of the given texts. */
export const oneOf =
  <T extends string>(...texts: readonly T[]): Reader<T> =>
  (value, path) =>
    texts.find((each) => each === value) ?? wrongType(path);

/** Return a reader of an array. */
export const list =
  <T>(entry: Reader<T>): Reader<readonly T[]> =>
  (value, path) =>
    Array.isArray(value) ? value.map((each, index) => entry(each, `${path}[${index}]`)) : wrongType(path);

/** Return a reader of an object whose names are data, such as file names. */
export const recordOf =
  <T>(entry: Reader<T>): Reader<ReadonlyMap<string, T>> =>
  (value, path) =>
    isRecord(value)
      ? new Map(Object.entries(value).map(([name, each]) => [name, entry(each, `${path}.${name}`)]))
      : wrongType(path);

/** Return a reader that accepts null, too. */
export const nullable =
  <T>(reader: Reader<T>): Reader<T | null> =>
  (value, path) =>
    value === null ? null : reader(value, path);

/** Return a reader of a field that may be missing. */
export const withDefault =
  <T>(reader: Reader<T>, missing: T): Reader<T> =>
  (value, path) =>
    value === undefined ? missing : reader(value, path);

/** Return a reader of a field that may be missing: undefined. */
export const optional =
  <T>(reader: Reader<T>): Reader<T | undefined> =>
  (value, path) =>
    value === undefined ? undefined : reader(value, path);

/** Return a reader of an object with the given fields, whose names in JSON are in snake case. */
export const object =
  <F extends Fields>(fields: F): Reader<ObjectOf<F>> =>
  (value, path) => {
    if (!isRecord(value)) return wrongType(path);
    const inside = path === '' ? '' : `${path}.`;
    const names = new Map(Object.keys(fields).map((name) => [snakeCase(name), name]));
    const unknown = Object.keys(value).find((name) => !names.has(name));
    if (unknown !== undefined) throw new FieldError(`has an unknown field, ${inside}${unknown}`);
    const entries = [...names].map(([name, field]) => {
      const reader = fields[field] as Reader<unknown>;
      try {
        return [field, reader(value[name], inside + name)];
      } catch (error) {
        throw name in value || !(error instanceof FieldError)
          ? error
          : new FieldError(`${inside}${name} is missing`);
      }
    });
    return Object.fromEntries(entries) as ObjectOf<F>;
  };

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
