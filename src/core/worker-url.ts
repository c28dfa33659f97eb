/**
 * Location of a compiled worker file that lies beside the calling module.
 * Workers and child processes run compiled JavaScript, so a caller loaded from `src/` (tests) is led to `dist/`.
 *
 * @param from - `import.meta.url` of the caller
 * @param file - path relative to the caller, ending in `.js`
 */
export function workerUrl(from: string, file: string): URL {
  const url = new URL(file, from);
  if (from.endsWith('.ts')) url.pathname = url.pathname.replace(/\/src\/(?!.*\/src\/)/, '/dist/');
  return url;
}
