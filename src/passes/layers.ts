/** `model.layers.3` of a scope in it or in a module of it; null outside of numbered modules. */
export function layerOf(scope: string): string | null {
  return /^.*?\.\d+(?=\.|$)/.exec(scope)?.[0] ?? null;
}
