import type { Value } from '../graph/graph.js';
import type { RouterOptions } from '../ops/router.js';

// B rows a batch, T tokens a row

/** What a model reads beside its parameters. */
export interface ModelInputs {
  /** int32 [B, T]. */
  tokens: Value;
  /** int32 [B, T], position within the document. */
  positions: Value;
  /** int32 [B, T], number of the document within its row, −1 padding; null: a row is one document. */
  docIds: Value | null;
  /** For each MTP depth k = 1, 2, …: int32 [B, T], the token k further on. */
  mtpTokens: readonly Value[];
  /** Positions in the caches that are filled, int32 [B], and how many a cache has; null: no caches. */
  cache: { start: Value; capacity: number } | null;
  /** Key of the step's random numbers, int32 [2]; null: no dropout. */
  dropoutKey: Value | null;
}

/** What balancing the experts of one layer takes. */
export interface RouterRecord {
  /** Module path of the layer's MLP. */
  layer: string;
  /** int32 [B·T, K]. */
  experts: Value;
  /** fp32 [B·T, E]. */
  scores: Value;
  options: RouterOptions;
  /** Name of the correction bias parameter, if the family has one. */
  bias: string | null;
}

/** What a model computes. */
export interface ModelOutput {
  /** [B, T, D], after the final norm. */
  hidden: Value;
  /** [V, D]: logits = hidden · headᵀ. */
  head: Value;
  /** For each MTP depth: [B, T, D] to be multiplied by the same head. */
  mtpHidden: readonly Value[];
  routers: readonly RouterRecord[];
}
