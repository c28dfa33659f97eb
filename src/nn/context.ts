import type { Value } from '../graph/graph.js';
import type { RouterOptions } from '../ops/router.js';

// B rows a batch, T tokens a row

/** What a model reads beside its parameters. */
export interface ModelInputs {
  /** int32 [B, T]. */
  tokens: Value;
  /** int32 [B, T], position within the document. */
  positions: Value;
  /**
   * int32 [B, T], number of the document within its row, −1 padding; null: a row is one document. With caches a row is one
   * document too, and ids tell padding only.
   */
  docIds: Value | null;
  /** For each MTP depth k = 1, 2, …: int32 [B, T], the token k further on. */
  mtpTokens: readonly Value[];
  /** null: no caches. */
  cache: CacheInputs | null;
  /** Key of the step's random numbers, int32 [2]; null: no dropout. */
  dropoutKey: Value | null;
}

/** Caches of earlier tokens' keys and values, and how they are used. */
export interface CacheInputs {
  /** int32 [B], positions that are filled. */
  start: Value;
  /** int32 [B], how many of the T tokens of a row are there; padding stands behind them. */
  counts: Value;
  /** Positions that a cache has. */
  capacity: number;
  /** What latent attention keeps: compressed keys and values, or those of each head. Other attention has one way. */
  form: 'latent' | 'expanded';
  /** Whether `start` is known to be 0 in every row. */
  isEmpty: boolean;
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
  /** [B, T, D], what the first MTP module reads; absent where there is none. */
  state?: Value;
  /** For each MTP depth: [B, T, D] to be multiplied by the same head. */
  mtpHidden: readonly Value[];
  routers: readonly RouterRecord[];
}

/** What one module of multi-token prediction computes. */
export interface PredictionOutput {
  /** [B, T, D], after its own norm, to be multiplied by the head. */
  hidden: Value;
  /** [V, D], the model's. */
  head: Value;
  /** [B, T, D], what the next module reads. */
  state: Value;
}
