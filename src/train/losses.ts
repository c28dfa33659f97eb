// What a step minimises, term by term. Every term has its own denominator, known before the window of micro-batches
// starts, so that summed micro-batches equal the full batch.
// B rows, T tokens a row, D hidden size, E experts, K experts a token
import type { Graph, Value } from '../graph/graph.js';
import type { ModelInputs, ModelOutput, RouterRecord } from '../nn/context.js';
import { add, cast, divide, lessEqual, maximum, multiply } from '../ops/elementwise.js';
import { linearCrossEntropy } from '../ops/linear-cross-entropy.js';
import { sum } from '../ops/reduce.js';
import { expertCounts } from '../ops/router.js';
import { reshape } from '../ops/shape.js';

/** Inputs that vary from update to update, fp32 [1] each: 1 / what a term is the mean over, times its weight. */
export interface LossScales {
  /** 1 / labels. */
  main: Value;
  /** λ / (depths · labels of the depth). */
  mtp: Value[];
  /** α / (rows · layers with experts). */
  balance: Value;
}

/** The terms of the loss, fp32 [1] each, already scaled. */
export interface LossTerms {
  main: Value;
  mtp: Value[];
  balance: Value | null;
}

/** Declares the scales as inputs of the graph. */
export function lossScales(graph: Graph, mtpDepth: number): LossScales {
  const one = (name: string) => graph.input(name, [1], 'fp32');
  return {
    main: one('mainScale'),
    mtp: Array.from({ length: mtpDepth }, (_, k) => one(`mtpScale${k + 1}`)),
    balance: one('balanceScale'),
  };
}

/** Cross-entropy of the main head and of each MTP depth, and the sequence-wise balance loss. */
export function languageModelLoss(
  output: ModelOutput,
  inputs: ModelInputs,
  scales: LossScales,
  options: { labelSmoothing: number; zLoss: number; chunkRows: number },
): LossTerms {
  const { graph } = output.hidden.node;
  const { shape } = inputs.tokens;
  const entropy = (hidden: Value, labelName: string, scale: Value) => {
    const labels = reshape(graph.input(labelName, shape, 'int32'), [-1]);
    const rows = reshape(hidden, [-1, hidden.shape.at(-1) as number]);
    return linearCrossEntropy(rows, output.head, labels, scale, options).loss;
  };
  const balance = output.routers.map((router) => sequenceBalance(router, inputs)).reduce<Value | null>(plus, null);
  return {
    main: graph.scoped('loss', () => entropy(output.hidden, 'labels', scales.main)),
    mtp: output.mtpHidden.map((hidden, k) =>
      graph.scoped(`loss.mtp${k + 1}`, () => entropy(hidden, `mtpLabels${k + 1}`, scales.mtp[k] as Value)),
    ),
    balance: balance && multiply(reshape(balance, [1]), scales.balance),
  };
}

/**
 * Σ over rows of Σ_i f_i · P_i. DeepSeek-V3, eq. 17–20: f_i is the share of the row's choices that expert i got, times
 * E; P_i the mean of its normalised score. f carries no gradient; padding counts in neither.
 */
function sequenceBalance({ experts, scores, options }: RouterRecord, { tokens, docIds }: ModelInputs): Value {
  const [batch, length] = tokens.shape as [number, number];
  const count = scores.shape.at(-1) as number;
  const counts_BE = expertCounts(experts, { groups: batch, experts: count });
  const chosen_B1 = maximum(sum(counts_BE, [1], true), 1);
  const f_BE = multiply(divide(counts_BE, chosen_B1), count);
  const normalised = divide(scores, sum(scores, [scores.shape.length - 1], true));
  const s_BTE = reshape(normalised, [batch, length, count]);
  const used_BT1 = docIds ? reshape(lessEqual(0, cast(docIds, 'fp32')), [batch, length, 1]) : null;
  const total_BE = sum(used_BT1 ? multiply(s_BTE, used_BT1) : s_BTE, [1]);
  // K choices a token: choices / K tokens of the row are in use.
  const p_BE = divide(total_BE, divide(chosen_B1, options.topK));
  return sum(multiply(f_BE, p_BE), [0, 1]);
}

/** Sum of terms of which some are not there. */
export function plus(a: Value | null, b: Value | null): Value | null {
  return a && b ? add(a, b) : (a ?? b);
}
