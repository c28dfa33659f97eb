// Muon over the matrices of a step. Jordan et al. 2024 (Muon: an optimizer for hidden layers in neural networks), as
// torch.optim.Muon: the momentum, made orthogonal by Newton–Schulz iterations, is the step.
import { type Shape, sameShape, sizeOf } from '../core/shape.js';
import type { Graph, Value } from '../graph/graph.js';
import { add, cast, divide, maximum, multiply, sqrt } from '../ops/elementwise.js';
import { matmul, matmulAccumulate } from '../ops/matmul.js';
import { muonMomentum, muonUpdate } from '../ops/muon.js';
import { sumOfSquares } from '../ops/reduce.js';
import { reshape, transpose } from '../ops/shape.js';
import { maxTensors } from '../ops/tensor-list.js';
import {
  type OptimizedParameter,
  stateSlot,
  type Updated,
  type UpdateRates,
  updatedTensor,
  updateSlots,
} from './update-state.js';

/** What does not vary between updates. */
export interface MuonConfig {
  momentum: number;
  nesterov: boolean;
  newtonSchulzSteps: number;
  muonLrAdjustment: 'original' | 'match-rms-adamw';
  /** Of the products that make steps orthogonal. */
  productDtype: 'fp32' | 'bf16';
}

/** Of the quintic a·x + b·x³ + c·x⁵, whose slope at 0 is as great as convergence near 1 allows. */
const quintic = { a: 3.4445, b: -4.775, c: 2.0315 };
/** Least norm that is divided by, as in PyTorch. */
const leastNorm = 1e-7;
/**
 * Numbers of one batch of products: small matrices share a call, while three tensors of this size, in bf16 the memory of 24 MiB,
 * do not count beside what a step needs anyway.
 */
const batchSize = 2 ** 22;

/** Updates matrices by their gradients. */
export function applyMuon(
  graph: Graph,
  updated: readonly Updated[],
  { lr, gradScale }: UpdateRates,
  config: MuonConfig,
): void {
  const { momentum, nesterov, newtonSchulzSteps, muonLrAdjustment, productDtype: dtype } = config;
  for (const batch of batches(updated)) {
    const { parameter } = batch[0] as Updated;
    const [count, rows, columns] = matricesOf(parameter);
    const pairs = batch.map((one) => ({ grad: one.grad, m: stateSlot(graph, 'muon.momentum', one, 'fp32') }));
    const { direction, m } = muonMomentum(pairs, gradScale, { momentum, nesterov, dtype });
    const matrices = reshape(direction, [batch.length * count, rows, columns]);
    const step = reshape(orthogonalized(matrices, newtonSchulzSteps), direction.shape);
    const tensors = batch.map((one) => updatedTensor(graph, one));
    const made = muonUpdate(tensors, lr, step, lrFactor(muonLrAdjustment, rows, columns));
    for (const [i, one] of batch.entries()) {
      updateSlots(graph, one, made[i] as (typeof made)[number], { 'muon.momentum': m[i] as Value });
    }
  }
}

/** Factor of the learning rate by the shape of a matrix: that of Jordan et al., or of Liu et al. 2025, arXiv:2502.16982, eq. 4. */
function lrFactor(adjustment: MuonConfig['muonLrAdjustment'], rows: number, columns: number): number {
  return adjustment === 'original' ? Math.sqrt(Math.max(1, rows / columns)) : 0.2 * Math.sqrt(Math.max(rows, columns));
}

/** The matrices of a parameter: its parts where they are alike, else its last two dims. */
export function matricesOf({ shape, parts = [] }: OptimizedParameter): [count: number, rows: number, columns: number] {
  const first = parts[0]?.shape;
  if (first?.length === 2 && parts.every((part) => sameShape(part.shape, first))) {
    return [parts.length, ...(first as unknown as [number, number])];
  }
  return [sizeOf(shape.slice(0, -2)), ...(shape.slice(-2) as [number, number])];
}

/** Parameters whose matrices are alike, as many as share a batch of products. */
function batches(updated: readonly Updated[]): Updated[][] {
  const alike = new Map<string, Updated[]>();
  for (const one of updated) {
    const key = `${one.parameter.shape} ${matricesOf(one.parameter)}`;
    alike.set(key, [...(alike.get(key) ?? []), one]);
  }
  return [...alike.values()].flatMap((group) => {
    const size = sizeOf((group[0] as Updated).parameter.shape);
    const most = Math.max(1, Math.min(maxTensors, Math.floor(batchSize / size)));
    return Array.from({ length: Math.ceil(group.length / most) }, (_, i) => group.slice(i * most, (i + 1) * most));
  });
}

/**
 * Each matrix with singular values near 1 and its singular vectors: `steps` times x = a·x + (b·xxᵀ + c·(xxᵀ)²)·x, begun with
 * a Frobenius norm of 1.
 *
 * @param x - [N, rows, columns], float; the products are in its dtype
 */
export function orthogonalized(x: Value, steps: number): Value {
  const { dtype } = x;
  const [, rows, columns] = x.shape as Shape & [number, number, number];
  // Tall matrices lie down: the products xxᵀ are of the lesser size then.
  if (rows > columns) return transpose(orthogonalized(transpose(x, [0, 2, 1]), steps), [0, 2, 1]);
  const norm = cast(sqrt(sumOfSquares(x, [1, 2], true)), 'fp32');
  let y = cast(divide(x, maximum(norm, leastNorm)), dtype);
  for (let i = 0; i < steps; i++) {
    const gram = matmul(y, y, { transposeB: true });
    // What is added to a product is in fp32.
    const cubic = multiply(matmul(gram, gram, { outputDType: 'fp32' }), quintic.c);
    const mixed = cast(add(multiply(cast(gram, 'fp32'), quintic.b), cubic), dtype);
    y = matmulAccumulate(multiply(cast(y, 'fp32'), quintic.a), mixed, y, { outputDType: dtype });
  }
  return y;
}
