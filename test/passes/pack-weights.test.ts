import { expect, it } from 'vitest';
import { sizeOf } from '../../src/core/shape.js';
import { Graph } from '../../src/graph/graph.js';
import { verify } from '../../src/graph/verify.js';
import { multiply } from '../../src/ops/elementwise.js';
import { embedding } from '../../src/ops/embedding.js';
import { matmul } from '../../src/ops/matmul.js';
import { reshape, slice } from '../../src/ops/shape.js';
import { readPackedWeights } from '../../src/passes/pack-weights.js';
import { prune } from '../../src/passes/prune.js';
import { compile } from '../../src/runtime/compile.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { fromFloats } from '../support/float-bytes.js';
import { testDevice } from '../support/op-case.js';
import { Rng } from '../support/rng.js';

const names = (graph: Graph) => graph.nodes.map(({ op }) => op.name);

it('gives the results of the plain graph, from packed slots', async () => {
  const graph = new Graph();
  const table = graph.slot('table', [40, 9], 'bf16');
  const up = graph.slot('up', [9, 70], 'bf16');
  const down = graph.slot('down', [9, 70], 'bf16');
  const x = embedding(table, graph.input('ids', [2, 3], 'int32'));
  const hidden = matmul(matmul(x, up), down, { transposeB: true });
  graph.output('logits', matmul(hidden, table, { transposeB: true, outputDType: 'fp32' }));
  const { graph: packed, packing } = readPackedWeights(graph);
  for (const each of [packed, packing]) verify(each);
  expect(names(packed).filter((name) => name.includes('matmul'))).toEqual(new Array(3).fill('packed-matmul'));

  const device = testDevice();
  const [plainProgram, packedProgram, packingProgram] = [graph, packed, packing].map((each) =>
    device.load(compile(each, device.target)),
  );
  const slots: Record<string, Tensor> = { logits: device.allocate([2, 3, 40], 'fp32') };
  for (const [name, { shape, dtype }] of [...graph.slots, ...packing.slots])
    slots[name] ??= device.allocate(shape, dtype);
  const rng = new Rng('packed');
  for (const [name, { shape, dtype }] of graph.slots) {
    const data = Float64Array.from({ length: sizeOf(shape) }, () => rng.normal());
    await slots[name]?.write(new Uint8Array(fromFloats(data, dtype).buffer));
  }
  const inputs = { ids: Int32Array.from([7, 0, 39, 5, 5, 12]) };
  const run = async (program: typeof plainProgram) => {
    await device.run([{ program: program as NonNullable<typeof program>, slots, inputs }]);
    return slots.logits?.toFloat32() as Promise<Float32Array>;
  };
  const expected = await run(plainProgram);
  await run(packingProgram);
  const found = await run(packedProgram);
  expect(expected.some((logit) => Math.abs(logit) > 10)).toBe(true);
  // Sums in another order, rounded to bf16 between the products.
  const allowed = 0.02 * Math.max(...expected.map(Math.abs));
  for (const [i, logit] of found.entries()) expect(Math.abs(logit - (expected[i] as number))).toBeLessThan(allowed);
  for (const tensor of Object.values(slots)) tensor.dispose();
});

it('packs each weight once, and reads the plain ones', () => {
  const graph = new Graph();
  const [x, w] = [graph.input('x', [2, 8, 5], 'fp32'), graph.slot('w', [33, 5], 'fp16')];
  graph.output('first', matmul(x, w, { transposeB: true }));
  graph.output('second', matmul(multiply(x, 2), w, { transposeB: true }));
  const { graph: packed, packing } = readPackedWeights(graph);
  expect([...packing.slots].map(([name, { type }]) => [name, type])).toEqual([
    ['w', 'fp16 [33, 5]'],
    ['packed/w', 'fp16 [2, 5, 32]'],
  ]);
  expect([...packing.updates.keys()]).toEqual(['packed/w']);
  expect(names(packing).filter((name) => name === 'pack-weights')).toHaveLength(1);
  expect([...packed.slots.keys()].sort()).toEqual(['packed/w', 'w']);
  expect(packed.outputs.get('second')?.type).toBe('fp32 [2, 8, 33]');
});

it('leaves alone what would not be faster or not be the same', () => {
  const graph = new Graph();
  const slot = (name: string) => graph.slot(`w/${name}`, [5, 5], 'fp32');
  const row = graph.input('row', [1, 5], 'fp32');
  graph.output('rows', matmul(graph.input('rows', [65, 5], 'fp32'), slot('rows')));
  graph.output('foldedRows', matmul(graph.input('foldedRows', [13, 6, 5], 'fp32'), slot('foldedRows')));
  const narrow = graph.slot('w/narrow', [5, 5], 'bf16');
  graph.output('narrow', matmul(graph.input('narrow', [17, 5], 'bf16'), narrow));
  graph.output('transposed', matmul(graph.input('column', [5, 1], 'fp32'), slot('transposed'), { transposeA: true }));
  graph.output('made', matmul(row, multiply(slot('made'), 2)));
  graph.output('input', matmul(row, graph.input('input', [5, 5], 'fp32')));
  graph.output('manyRows', matmul(graph.input('many', [2, 65, 5], 'fp32'), graph.slot('w/many', [2, 5, 5], 'fp32')));
  graph.output('part', matmul(row, slice(multiply(slot('updatedPart'), 1), 0, 0, 5)));
  graph.update('w/updatedPart', multiply(slot('updatedPart'), 2));
  graph.output('updated', matmul(row, slot('updated')));
  graph.update('w/updated', multiply(slot('updated'), 2));
  graph.output('packed', matmul(row, slot('both')));
  graph.output('otherWay', matmul(row, slot('both'), { transposeB: true }));
  const { graph: packed, packing } = readPackedWeights(graph);
  verify(packed);
  const changed = [...packed.outputs].filter(([, value]) => value.node.op.name !== 'matmul').map(([name]) => name);
  expect(changed).toEqual(['packed']);
  expect([...packing.slots.keys()]).toEqual(['w/both', 'packed/w/both']);
});

it('packs what is made of weights alone, a matrix a head too', async () => {
  const graph = new Graph();
  const w = graph.slot('w', [20, 6], 'fp32');
  const heads = reshape(w, [2, 10, 6]);
  const x = graph.input('x', [2, 3, 4], 'fp32');
  const up = matmul(x, slice(heads, 1, 0, 4));
  graph.output('y', matmul(up, slice(heads, 1, 4, 10), { transposeB: true }));
  const { graph: packed, packing } = readPackedWeights(graph);
  for (const each of [packed, packing]) verify(each);
  expect(names(prune(packed))).toEqual(expect.not.arrayContaining(['slice', 'reshape', 'matmul']));
  expect([...packing.slots].map(([, { type }]) => type)).toEqual([
    'fp32 [20, 6]',
    'fp32 [2, 1, 4, 32]',
    'fp32 [2, 1, 6, 32]',
  ]);

  const device = testDevice();
  const rng = new Rng('heads');
  const normals = (length: number) => Float32Array.from({ length }, () => rng.normal());
  const slots: Record<string, Tensor> = { y: device.allocate([2, 3, 6], 'fp32') };
  for (const [name, { shape, dtype }] of packing.slots) slots[name] = device.allocate(shape, dtype);
  await slots.w?.write(normals(120));
  const inputs = { x: normals(24) };
  const run = async (each: Graph) => {
    const program = device.load(compile(each, device.target));
    await device.run([{ program, slots, inputs }]);
    return slots.y?.toFloat32() as Promise<Float32Array>;
  };
  const expected = await run(graph);
  await run(packing);
  for (const [i, y] of (await run(packed)).entries()) expect(y).toBeCloseTo(expected[i] as number, 4);
  for (const tensor of Object.values(slots)) tensor.dispose();
});
