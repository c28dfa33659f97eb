import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { type AdamwInputs, type AdamwOptions, type AdamwTensor, adamw } from '../../src/ops/adamw.js';
import { roundTo } from '../support/compare.js';
import { describeOp, expectHadalError, runGraph } from '../support/op-case.js';
import { cases } from './adamw.cases.js';

describeOp('adamw', cases);

/** What adamw-golden.py wrote: lists over steps of lists over elements. */
interface Golden {
  options: AdamwOptions & { lr: number; weightDecay: number };
  gradScale: number;
  param: number[];
  grads: number[][];
  params: number[][];
  m: number[][];
  v: number[][];
}

it('takes the steps that torch.optim.AdamW takes', async () => {
  const golden = JSON.parse(readFileSync(new URL('./adamw-golden.json', import.meta.url), 'utf8')) as Golden;
  const { options, gradScale } = golden;
  const vector = (data: ArrayLike<number>) => ({ shape: [data.length], dtype: 'fp32' as const, data });
  const zeros = golden.param.map(() => 0);
  let state: ArrayLike<number>[] = [golden.param, zeros, zeros];
  for (const [i, grad] of golden.grads.entries()) {
    const inputs = {
      param: vector(state[0]!),
      m: vector(state[1]!),
      v: vector(state[2]!),
      grad: vector(grad),
      lr: vector([options.lr]),
      gradScale: vector([gradScale]),
      correction1: vector([1 - options.beta1 ** (i + 1)]),
      correction2: vector([1 - options.beta2 ** (i + 1)]),
    };
    state = await runGraph(inputs, ({ param, grad, m, v, ...numbers }) => {
      const tensor = { param: param!, grad: grad!, m: m!, v: v!, weightDecay: options.weightDecay };
      const [next] = adamw([tensor], numbers as unknown as AdamwInputs, options);
      return [next!.param, next!.m, next!.v];
    });
    [golden.params, golden.m, golden.v].forEach((expected, output) => {
      expected[i]!.forEach((value, element) => {
        const error = Math.abs(state[output]![element]! - value);
        expect(error).toBeLessThan(1e-6 * Math.abs(value) + 1e-8);
      });
    });
  }
});

it.each(['bf16', 'fp16'] as const)('gives copies in %s that are the next parameters, rounded', async (dtype) => {
  const param = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i) * 3 ** ((i % 40) - 20));
  const one = { shape: [1], dtype: 'fp32' as const, data: [1] };
  const values = { shape: [1000], dtype: 'fp32' as const, data: param };
  const [next, copy] = await runGraph({ values, one }, ({ values, one }) => {
    const numbers = { lr: one!, gradScale: one!, correction1: one!, correction2: one! };
    const tensor = { param: values!, grad: values!, m: values!, v: values!, weightDecay: 0.5, copy: dtype };
    const [result] = adamw([tensor], numbers, { beta1: 0.9, beta2: 0, eps: 1e-8 });
    return [result!.param, result!.copy!];
  });
  expect(copy).toEqual(next!.map((x) => roundTo(dtype, x)));
});

it('is one call for many tensors', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  const numbers = { lr: one, gradScale: one, correction1: one, correction2: one };
  const tensor = { param: x, grad: x, m: x, v: x, weightDecay: 0 };
  adamw(Array(33).fill(tensor), numbers, { beta1: 0.9, beta2: 0.95, eps: 1e-8 });
  expect(graph.nodes.filter(({ op }) => op.name === 'adamw').map(({ outputs }) => outputs.length)).toEqual([48, 48, 3]);
});

it('names what does not fit', () => {
  const graph = new Graph();
  const x = graph.input('x', [3], 'fp32');
  const one = graph.input('one', [1], 'fp32');
  const numbers = { lr: one, gradScale: one, correction1: one, correction2: one };
  const half = graph.input('half', [3], 'bf16');
  const update = (change: Partial<AdamwTensor>, numbersChange: Partial<AdamwInputs> = {}) => {
    const whole = { param: x, grad: x, m: x, v: x, weightDecay: 0 };
    const options = { beta1: 0.9, beta2: 0.95, eps: 1e-8 };
    return adamw([whole, { ...whole, ...change }], { ...numbers, ...numbersChange }, options);
  };
  expectHadalError(() => update({ grad: one }), 'HADAL_ERR_SHAPE', /grad of shape \[3\].*\[1\]/);
  expectHadalError(() => update({ v: half }), 'HADAL_ERR_DTYPE', /v of dtype fp32.*bf16/);
  expectHadalError(() => update({}, { lr: x }), 'HADAL_ERR_SHAPE', /lr of shape \[1\]/);
});
