// The real tfjs-node, whose native binding is TensorFlow's C library. It is not installed with hadal: HADAL_TFJS_NODE
// names a folder whose node_modules has it, binding and all.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type * as tfjs from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { matmul } from '../../src/ops/matmul.js';
import { loadTensorflow } from '../../src/tfjs/tensorflow.js';
import { fromTfjs, type NumberArray, toTfjs } from '../../src/tfjs/tensors.js';
import { relativeNorm } from '../support/compare.js';
import { runGraph, testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';

type Tf = typeof tfjs;
const from = process.env.HADAL_TFJS_NODE;

// Why skipped: HADAL_TFJS_NODE is not set.
describe.skipIf(!from)('tfjs-node (HADAL_TFJS_NODE)', () => {
  let tf: Tf;
  beforeAll(async () => {
    tf = await loadTensorflow<Tf>({ from: from as string });
    expect(tf.getBackend()).toBe('tensorflow');
  });

  /** Whether a tensor, once an op has read it, sees what is then written into the array it was made of. */
  async function sees(tensor: tfjs.Tensor, array: NumberArray): Promise<boolean> {
    await tf.add(tensor, tensor).data();
    array[0] = 100;
    return (await tf.add(tensor, tensor).data())[0] === 200;
  }

  it.each([Float32Array, Int32Array])('uses our memory in place: %o', async (type) => {
    let handed: NumberArray = new Uint8Array();
    const listening = {
      tensor(...[values, shape, dtype]: Parameters<Tf['tensor']>): tfjs.Tensor {
        handed = values as NumberArray;
        return tf.tensor(values, shape, dtype);
      },
    };
    for (let i = 0; i < 20; i++) {
      const tensor = await toTfjs({ data: new type(64), shape: [8, 8] }, listening);
      expect(await sees(tensor, handed)).toBe(true);
      // It decides by alignment: what begins four bytes later is copied.
      const { buffer, byteOffset } = handed;
      const shifted = new type(buffer as ArrayBuffer, byteOffset + 4, 60);
      expect(await sees(tf.tensor(shifted, [60], tensor.dtype as 'float32'), shifted)).toBe(false);
    }
  });

  it('keeps the memory for as long as it has the tensor', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const tensors: tfjs.Tensor[] = [];
    for (let i = 0; i < 50; i++) {
      const tensor = await toTfjs({ data: new Float32Array(10_000).fill(i), shape: [10_000] }, tf);
      await tf.add(tensor, 0).data();
      tensors.push(tensor);
    }
    for (let i = 0; i < 5; i++) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 10));
      Array.from({ length: 100 }, () => new Float32Array(10_000).fill(-1));
    }
    for (const [i, tensor] of tensors.entries()) expect(new Set(await tensor.data())).toEqual(new Set([i]));
    tf.dispose(tensors);
    collect();
  });

  it('takes every format and shape, and gives it back', async () => {
    for (const [data, shape] of [
      [Float32Array.of(1.5, Number.NaN, -0, 1e-45), [2, 2]],
      [Int32Array.of(2 ** 31 - 1, -(2 ** 31)), [2, 1]],
      [Uint8Array.of(1, 0, 1), [3]],
      [Float32Array.of(7), []],
      [new Float32Array(0), [2, 0]],
    ] as [NumberArray, number[]][]) {
      const tensor = await toTfjs({ data, shape }, tf);
      // Through an op, so that it has been with TensorFlow.
      const there = tf.reshape(tf.concat([tf.reshape(tensor, [-1]), tf.zeros([0], tensor.dtype)]), shape);
      expect(await fromTfjs(there)).toEqual({ data, shape });
      using native = await fromTfjs(there, testDevice());
      expect(await fromTfjs(await toTfjs(native, tf))).toEqual({ data, shape });
    }
  });

  it('computes beside hadal in one process, and agrees', async () => {
    const rng = new Rng(5);
    const random = (shape: [number, number]) => ({
      shape,
      dtype: 'fp32' as const,
      data: Float32Array.from({ length: shape[0] * shape[1] }, () => rng.normal()),
    });
    const [x, w] = [random([130, 257]), random([257, 65])];
    const theirs = tf.matMul<tfjs.Tensor2D>(
      (await toTfjs(x, tf)) as tfjs.Tensor2D,
      (await toTfjs(w, tf)) as tfjs.Tensor2D,
    );
    const [ours] = await runGraph({ x, w }, ({ x, w }) => [matmul(x!, w!)]);
    expect(relativeNorm(ours!, await theirs.data())).toBeLessThan(1e-6);
  });
});
