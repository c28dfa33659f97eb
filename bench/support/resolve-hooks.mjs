// Where the module loader finds what benches, and tests' support in processes of its own, import. Runs in the loader's thread.
const root = new URL('../../', import.meta.url).href;

export function resolve(specifier, context, nextResolve) {
  if (!specifier.startsWith('.') || !context.parentURL) return nextResolve(specifier, context);
  const { href } = new URL(specifier, context.parentURL);
  if (href.startsWith(`${root}src/`)) return nextResolve(href.replace(`${root}src/`, `${root}dist/`), context);
  if (href.startsWith(`${root}bench/`) || href.startsWith(`${root}test/`))
    return nextResolve(href.replace(/\.js$/, '.ts'), context);
  return nextResolve(specifier, context);
}
