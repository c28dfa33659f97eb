// With the CPU and WebAssembly backends of TensorFlow.js; tfjs-node has tfjs-node.test.ts.
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from 'vitest';
import { loadAddon } from '../../src/addon/addon.js';
import type { DType } from '../../src/core/dtype.js';
import { matmul } from '../../src/ops/matmul.js';
import { softmax } from '../../src/ops/softmax.js';
import { type Device, openDevice } from '../../src/runtime/device.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { alignedArray, alignmentBytes } from '../../src/tfjs/aligned-array.js';
import { fromTfjs, type Numbers, toTfjs } from '../../src/tfjs/tensors.js';
import { relativeNorm } from '../support/compare.js';
import { runGraph } from '../support/op-case.js';
import { Rng } from '../support/rng.js';

let device: Device;
beforeAll(() => {
  device = openDevice('cpu', { threads: 2 });
});
afterAll(() => device.dispose());

const refusal = (code: string, message: RegExp) => ({ code, message: expect.stringMatching(message) });

async function tensorOf(shape: number[], dtype: DType, data: NodeJS.TypedArray): Promise<Tensor> {
  const tensor = device.allocate(shape, dtype);
  await tensor.write(data);
  return tensor;
}

describe.each(['cpu', 'wasm'])('backend %s', (backend) => {
  beforeAll(async () => {
    expect(await tf.setBackend(backend)).toBe(true);
    await tf.ready();
  });

  it.each<[string, DType, NodeJS.TypedArray, number[], string]>([
    ['fp32', 'fp32', Float32Array.of(1.5, -0, Number.NaN, Number.POSITIVE_INFINITY, 1e-45, 3), [2, 3], 'float32'],
    ['int32', 'int32', Int32Array.of(2 ** 31 - 1, -(2 ** 31), 0, 16777217), [4, 1], 'int32'],
    ['uint8', 'uint8', Uint8Array.of(1, 0, 1), [3], 'bool'],
    ['a scalar', 'fp32', Float32Array.of(-7), [], 'float32'],
    ['an empty tensor', 'fp32', new Float32Array(0), [2, 0, 3], 'float32'],
    ['an empty int32 tensor', 'int32', new Int32Array(0), [0], 'int32'],
    ['five dims', 'fp32', Float32Array.from({ length: 48 }, (_, i) => i / 7), [2, 1, 3, 2, 4], 'float32'],
  ])('%s goes there and back', async (_, dtype, data, shape, tfDType) => {
    using tensor = await tensorOf(shape, dtype, data);
    const there = await toTfjs(tensor, tf);
    expect(there.dtype).toBe(tfDType);
    expect(there.shape).toEqual(shape);
    expect(await there.data()).toEqual(data);
    using back = await fromTfjs(there, device);
    expect([back.dtype, back.shape]).toEqual([dtype, shape]);
    expect(await back.read(new Uint8Array(back.bytes))).toEqual(new Uint8Array(data.buffer));
    const numbers = await fromTfjs(there);
    expect(numbers).toEqual({ data, shape });
    const again = await toTfjs(numbers, tf);
    expect(await again.data()).toEqual(data);
    expect(there.isDisposed).toBe(false);
    tf.dispose([there, again]);
  });

  it.each<[DType, number[]]>([
    ['bf16', [0x3f80, 0xc049, 0x0000, 0x7f80]], // 1, −3.140625, 0, infinity
    ['fp16', [0x3c00, 0xc248, 0x0000, 0x7c00]],
  ])('%s becomes float32 and is rounded back', async (dtype, codes) => {
    using tensor = await tensorOf([2, 2], dtype, Uint16Array.from(codes));
    const there = await toTfjs(tensor, tf);
    expect(there.dtype).toBe('float32');
    expect(Array.from(await there.data())).toEqual([1, -3.140625, 0, Number.POSITIVE_INFINITY]);
    using back = await fromTfjs(there, device, dtype);
    expect(Array.from(await back.read(new Uint16Array(4)))).toEqual(codes);
    there.dispose();
  });

  it('shares no memory with what it was made of', async () => {
    const numbers = { data: Float32Array.of(1, 2), shape: [2] };
    const there = await toTfjs(numbers, tf);
    numbers.data.fill(9);
    expect(Array.from(await there.data())).toEqual([1, 2]);
    const back = await fromTfjs(there);
    back.data.fill(9);
    expect(Array.from(await there.data())).toEqual([1, 2]);
    there.dispose();
  });

  it('is an oracle: softmax(x·w) agrees', async () => {
    const rng = new Rng(3);
    const random = (shape: number[]) => ({
      shape,
      data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => rng.normal()),
    });
    const [x, w] = [random([33, 70]), random([70, 19])];
    const [x_, w_] = [await toTfjs(x, tf), await toTfjs(w, tf)];
    const theirs = tf.softmax(tf.matMul(x_ as tf.Tensor2D, w_ as tf.Tensor2D));
    const given = { x: { ...x, dtype: 'fp32' as const }, w: { ...w, dtype: 'fp32' as const } };
    const [ours] = await runGraph(given, ({ x, w }) => [softmax(matmul(x!, w!))]);
    expect(relativeNorm(ours!, await theirs.data())).toBeLessThan(1e-6);
    tf.dispose([x_, w_, theirs]);
  });

  it('leaves no tensor of its own behind', async () => {
    const before = tf.memory().numTensors;
    const there = await toTfjs({ data: Float32Array.of(1), shape: [1] }, tf);
    await fromTfjs(there);
    there.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  it('refuses what does not fit', async () => {
    const strings = tf.tensor(['a', 'b']);
    await expect(fromTfjs(strings)).rejects.toMatchObject(refusal('HADAL_ERR_DTYPE', /float32.*got string/));
    const ints = tf.tensor([1, 2], [2], 'int32');
    await expect(fromTfjs(ints, device, 'fp32')).rejects.toMatchObject(refusal('HADAL_ERR_DTYPE', /fp32, got int32/));
    ints.dispose();
    await expect(fromTfjs(ints)).rejects.toMatchObject(refusal('HADAL_ERR_DISPOSED', /\[2\]/));
    strings.dispose();
    const wrong: [Numbers, string, RegExp][] = [
      [{ data: new Float32Array(5), shape: [2, 3] }, 'HADAL_ERR_SHAPE', /\[2, 3\] has, got 5/],
      [{ data: new Float32Array(6), shape: [-2, -3] }, 'HADAL_ERR_SHAPE', /\[-2, -3\]/],
      [{ data: new Float32Array(3), shape: [1.5, 2] }, 'HADAL_ERR_SHAPE', /\[1.5, 2\]/],
      [{ data: Uint8Array.of(0, 2), shape: [2] }, 'HADAL_ERR_DTYPE', /0 and 1.*got 2/],
      [{ data: [1, 2] as never, shape: [2] }, 'HADAL_ERR_DTYPE', /Float32Array.*got Array/],
      [{ data: new Float64Array(2) as never, shape: [2] }, 'HADAL_ERR_DTYPE', /got Float64Array/],
    ];
    for (const [numbers, code, message] of wrong)
      await expect(toTfjs(numbers, tf)).rejects.toMatchObject(refusal(code, message));
    using bytes = await tensorOf([2], 'uint8', Uint8Array.of(1, 200));
    await expect(toTfjs(bytes, tf)).rejects.toMatchObject(refusal('HADAL_ERR_DTYPE', /got 200/));
    const gone = await tensorOf([1], 'fp32', new Float32Array(1));
    gone.dispose();
    await expect(toTfjs(gone, tf)).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  });
});

describe('memory handed to TensorFlow', () => {
  const { misalignment } = loadAddon();

  it('begins at a multiple of 64 bytes, whatever its size', () => {
    for (const length of [0, 1, 3, 15, 16, 17, 63, 1000, 4096, 33_000, 300_000]) {
      for (const type of [Float32Array, Int32Array, Uint8Array]) {
        const array = alignedArray<Float32Array | Int32Array | Uint8Array>(type, length);
        expect(array).toBeInstanceOf(type);
        expect(array).toHaveLength(length);
        expect(misalignment(array)).toBe(0);
        expect(array.every((x) => x === 0)).toBe(true);
      }
    }
  });

  it('is what a backend gets, of every format', async () => {
    const given: (Float32Array | Int32Array | Uint8Array)[] = [];
    const listening: { tensor: (...args: Parameters<typeof tf.tensor>) => tf.Tensor } = {
      tensor(values, shape, dtype) {
        given.push(values as Float32Array);
        return tf.tensor(values, shape, dtype);
      },
    };
    await tf.setBackend('cpu');
    for (const dtype of ['fp32', 'bf16', 'fp16', 'int32', 'uint8'] as const) {
      using tensor = device.allocate([3, 5], dtype);
      await toTfjs(tensor, listening);
    }
    for (const type of [Float32Array, Int32Array, Uint8Array])
      await toTfjs({ data: new type(15), shape: [15] }, listening);
    expect(given.map((array) => array.constructor.name)).toEqual([
      ...['Float32Array', 'Float32Array', 'Float32Array', 'Int32Array', 'Uint8Array'],
      ...['Float32Array', 'Int32Array', 'Uint8Array'],
    ]);
    for (const array of given) expect([array.length, misalignment(array) % alignmentBytes]).toEqual([15, 0]);
  });

  it('would not lie so by itself', () => {
    const arrays = Array.from({ length: 64 }, (_, i) => new Float32Array(64 + i));
    expect(arrays.some((array) => misalignment(array) !== 0)).toBe(true);
    const array = alignedArray<Float32Array>(Float32Array, 20);
    expect([1, 2, 15].map((i) => misalignment(array.subarray(i)))).toEqual([4, 8, 60]);
  });
});

it('gives the tensor type of the module that is passed', () => {
  expectTypeOf(toTfjs<tf.Tensor>).returns.resolves.toEqualTypeOf<tf.Tensor>();
  const make = () => toTfjs({ data: new Float32Array(1), shape: [] }, tf);
  expectTypeOf(make).returns.resolves.toExtend<tf.Tensor>();
});
