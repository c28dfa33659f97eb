// What Muon does beside its products, over several tensors of one shape. Formulas: native/ops/muon.h.
import type { Shape } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectShape } from './define-op.js';
import {
  type CopyDType,
  copyDTypesOf,
  countsOf,
  dtypesOf,
  expectNumbers,
  maxTensors,
  padded,
  passCost,
  spreadCopies,
} from './tensor-list.js';

interface MomentumAttrs {
  momentum: number;
  nesterov: boolean;
  dtype: 'fp32' | 'bf16';
}

const pairsOf = (inputs: readonly Value[]) =>
  Array.from({ length: (inputs.length - 1) / 2 }, (_, i) => {
    const [grad, m] = inputs.slice(1 + 2 * i) as [Value, Value];
    return { grad, m };
  });

/** Outputs are the directions of all tensors, then the next m of each. */
const momentumOp = defineOp<MomentumAttrs, readonly Value[], readonly Value[]>({
  name: 'muon-momentum',
  infer(inputs, { dtype }) {
    expectNumbers('muon-momentum', ['gradScale'], inputs);
    const pairs = pairsOf(inputs);
    const shape = pairs[0]?.grad.shape as Shape;
    for (const { grad, m } of pairs) {
      expectDType('muon-momentum', 'grad', grad, 'float');
      expectDType('muon-momentum', 'm', m, 'float');
      expectShape('muon-momentum', 'grad', grad, shape);
      expectShape('muon-momentum', 'm', m, shape);
    }
    return [{ shape: [pairs.length, ...shape], dtype }, ...pairs.map(({ m }) => ({ shape, dtype: m.dtype }))];
  },
  inPlace: Array.from({ length: maxTensors }, (_, i) => [1 + i, 2 + 2 * i] as const),
  cost: (inputs, outputs) => passCost(6 * (outputs[0] as Value).size, inputs, outputs),
  kernel(inputs, [direction, ...next], { momentum, nesterov, dtype }) {
    const pairs = pairsOf(inputs);
    return {
      kernel: 'muon-momentum',
      params: {
        ...{ tensors: pairs.length, nesterov: Number(nesterov), momentum, stackDtype: dtype },
        count: countsOf(pairs.map(({ m }) => m)),
        gradDtype: dtypesOf(pairs.map(({ grad }) => grad)),
        momentDtype: dtypesOf(pairs.map(({ m }) => m)),
      },
      buffers: [
        inputs[0] as Value,
        ...pairs.flatMap(({ grad, m }, i) => [grad, m, next[i] as Value]),
        direction as Value,
      ],
    };
  },
});

/** What does not vary between steps. */
export interface MuonMomentumOptions {
  momentum: number;
  nesterov: boolean;
  /** Of the directions. */
  dtype: 'fp32' | 'bf16';
}

/**
 * Momentum of Muon: m = momentum·m + (1 − momentum)·g; the direction is m, with `nesterov` momentum·m + (1 − momentum)·g.
 *
 * @param tensors - 1 … {@link maxTensors} of one shape, float
 * @param gradScale - fp32 [1], factor on the gradients
 * @returns the directions, [tensors, …shape], and the next m of each
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function muonMomentum(
  tensors: readonly { grad: Value; m: Value }[],
  gradScale: Value,
  options: MuonMomentumOptions,
): { direction: Value; m: Value[] } {
  const [direction, ...m] = momentumOp.apply([gradScale, ...tensors.flatMap(({ grad, m }) => [grad, m])], options);
  return { direction: direction as Value, m };
}

interface UpdateAttrs {
  scale: number;
  weightDecay: readonly number[];
  lrRatio: readonly number[];
  copies: readonly CopyDType[];
}

/** Outputs are the next params, then the copies that are asked for. */
const updateOp = defineOp<UpdateAttrs, readonly Value[], readonly Value[]>({
  name: 'muon-update',
  infer([lr, step, ...params], { copies }) {
    expectNumbers('muon-update', ['lr'], [lr as Value]);
    expectDType('muon-update', 'step', step as Value, 'float');
    expectShape('muon-update', 'step', step as Value, [params.length, ...(params[0] as Value).shape]);
    for (const param of params) {
      expectDType('muon-update', 'param', param, 'float');
      expectShape('muon-update', 'param', param, (params[0] as Value).shape);
    }
    return [
      ...params.map(({ shape, dtype }) => ({ shape, dtype })),
      ...params.flatMap(({ shape }, i) => (copies[i] ? [{ shape, dtype: copies[i] }] : [])),
    ];
  },
  inPlace: Array.from({ length: maxTensors }, (_, i) => [i, 2 + i] as const),
  cost: (inputs, outputs) => passCost(4 * (inputs[1] as Value).size, inputs, outputs),
  kernel([lr, step, ...params], outputs, attrs) {
    const copies = spreadCopies(attrs.copies, outputs.slice(params.length));
    return {
      kernel: 'muon-update',
      params: {
        ...{ tensors: params.length, scale: attrs.scale, stackDtype: (step as Value).dtype },
        ...{ lrRatio: padded(attrs.lrRatio, 0), weightDecay: padded(attrs.weightDecay, 0) },
        ...{ count: countsOf(params), dtype: dtypesOf(params), copyDtype: copyDTypesOf(attrs.copies) },
      },
      buffers: [
        ...[lr as Value, step as Value],
        ...params.flatMap((param, i) => [param, outputs[i] as Value, copies[i] ?? null]),
      ],
    };
  },
});

/** A tensor to update. */
export interface MuonTensor {
  /** Float. */
  param: Value;
  weightDecay: number;
  /** Its learning rate as a share of `lr`; default 1. */
  lrRatio?: number;
  /** Format in which the next param is wanted, too. */
  copy?: CopyDType;
}

/**
 * param − lr·(scale·step + weightDecay·param) of several tensors.
 *
 * @param tensors - 1 … {@link maxTensors} of one shape
 * @param lr - fp32 [1]
 * @param step - [tensors, …shape], float: the directions, made orthogonal
 * @param scale - factor of the step by the shape
 * @returns the next param and copy of each
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function muonUpdate(
  tensors: readonly MuonTensor[],
  lr: Value,
  step: Value,
  scale: number,
): { param: Value; copy: Value | null }[] {
  const copies = tensors.map(({ copy }) => copy ?? null);
  const outputs = updateOp.apply([lr, step, ...tensors.map(({ param }) => param)], {
    scale,
    weightDecay: tensors.map(({ weightDecay }) => weightDecay),
    lrRatio: tensors.map(({ lrRatio }) => lrRatio ?? 1),
    copies,
  });
  const made = spreadCopies(copies, outputs.slice(tensors.length));
  return tensors.map((_, i) => ({ param: outputs[i] as Value, copy: made[i] ?? null }));
}
