import type { Value } from '../graph/graph.js';
import { cacheWrite } from '../ops/cache-write.js';
import type { CacheInputs } from './context.js';
import type { ParameterScope } from './parameters.js';

// B batch, T new tokens, S cache capacity

/** Writes rows of new tokens [B, T, …] behind the ones that a cache of the layer holds; returns the whole cache [B, S, …]. */
export function cachedRows(scope: ParameterScope, cache: CacheInputs, name: string, x: Value): Value {
  const [batch, , ...rest] = x.shape as [number, number, ...number[]];
  const slot = `cache/${scope.join(name)}`;
  const next = cacheWrite(
    scope.graph.slot(slot, [batch, cache.capacity, ...rest], x.dtype),
    x,
    cache.start,
    cache.counts,
  );
  scope.graph.update(slot, next);
  return next;
}

/** Keys and values [B, T, …] behind those of earlier tokens: the whole caches, [B, S, …]. */
export function cached(scope: ParameterScope, cache: CacheInputs, k: Value, v: Value): [Value, Value] {
  return [cachedRows(scope, cache, 'k', k), cachedRows(scope, cache, 'v', v)];
}
