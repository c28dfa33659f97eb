import { expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { printGraph } from '../../src/graph/print.js';
import { add, negate } from '../../src/ops/elementwise.js';
import { layerNorm } from '../../src/ops/layer-norm.js';
import { reshape } from '../../src/ops/shape.js';

it('prints a line a node: type, op, operands, attributes, predicate, queue and layer; then updates and outputs', () => {
  const graph = new Graph();
  const x = graph.slot('x', [2, 3], 'fp32');
  const flag = graph.input('flag', [1], 'int32');
  const y = graph.scoped('model', () => graph.scoped('norm', () => add(x, 1)));
  const z = graph.onQueue('copy', () => negate(y));
  graph.predicated(flag, () => graph.update('x', add(x, z)));
  graph.output('flat', reshape(z, [6]));
  const w = graph.input('w', [3], 'fp32');
  graph.output('normed', layerNorm(x, w, w, 1e-5));
  expect(printGraph(graph).split('\n')).toEqual([
    '%0: fp32 [2, 3] = slot()  {name: "x", shape: [2,3], dtype: "fp32"}',
    '%1: int32 [1] = input()  {name: "flag", shape: [1], dtype: "int32"}',
    '%2: fp32 [] = constant()  {data: <4 bytes>, shape: []}  # model.norm',
    '%3: fp32 [2, 3] = add(%0, %2)  # model.norm',
    '%4: fp32 [2, 3] = negate(%3)  on copy',
    '%5: fp32 [2, 3] = add(%0, %4)  if %1',
    '%6: fp32 [6] = reshape(%4)  {shape: [6]}',
    '%7: fp32 [3] = input()  {name: "w", shape: [3], dtype: "fp32"}',
    '%8.0: fp32 [2, 3], %8.1: fp32 [2], %8.2: fp32 [2] = layer-norm(%0, %7, %7)  {eps: 0.00001}',
    'update x = %5',
    'output flat = %6',
    'output normed = %8.0',
  ]);
});
