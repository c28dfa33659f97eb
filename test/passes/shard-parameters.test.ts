import { describe, expect, it } from 'vitest';
import type { Graph, Node, Value } from '../../src/graph/graph.js';
import { rootOf } from '../../src/graph/reads.js';
import { verify } from '../../src/graph/verify.js';
import { isAllGather } from '../../src/ops/collectives.js';
import { layerOf } from '../../src/passes/layers.js';
import { finished } from '../../src/runtime/compile.js';
import { type StepConfig, traceEvaluation, traceStep } from '../../src/train/step.js';
import { stepConfig, tinyModel } from '../train/tiny.js';
import { dist } from '../train/tiny-ranks.js';

const config = (dtype: 'fp32' | 'bf16' | 'fp8'): StepConfig => {
  return { ...stepConfig(2, 16, dtype), dist: { ...dist(0, 4), zero: 3 } };
};

/** Of each gathered value: where it is gathered and read, and which layers, in which direction, read it. */
function gathered({ nodes }: Graph) {
  const readers = new Map<Value, Node[]>();
  for (const node of nodes) {
    if (node.op.isView) continue;
    for (const input of node.inputs) {
      if (!input || !isAllGather(rootOf(input).node)) continue;
      readers.set(rootOf(input), [...(readers.get(rootOf(input)) ?? []), node]);
    }
  }
  return [...readers].map(([value, read]) => ({
    from: value.node.id,
    until: Math.max(...read.map(({ id }) => id)),
    regions: new Set(read.map(({ isBackward, scope }) => `${isBackward} ${layerOf(scope) ?? scope}`)),
  }));
}

describe('gathered parameters', () => {
  it.each(['fp32', 'bf16', 'fp8'] as const)('are there for one layer, in one direction: %s', (dtype) => {
    for (const policy of ['none', 'sqrt'] as const) {
      const graph = finished(traceStep(tinyModel(), config(dtype), 'whole'), policy);
      verify(graph);
      const found = gathered(graph);
      expect(found.length).toBeGreaterThan(40);
      for (const { regions } of found) expect(regions.size).toBe(1);
      const all = new Set(found.flatMap(({ regions }) => [...regions]));
      expect([...all].filter((region) => region.startsWith('true')).length).toBeGreaterThanOrEqual(3);
      // At any node, those of two layers at most.
      for (const { id } of graph.nodes) {
        const there = found.filter(({ from, until }) => from <= id && id <= until);
        expect(new Set(there.flatMap(({ regions }) => [...regions])).size).toBeLessThanOrEqual(2);
      }
    }
  });

  it('are on their way while the layer before computes', () => {
    const { nodes } = finished(traceEvaluation(tinyModel(), config('fp32')), 'none');
    const gathers = nodes.filter(isAllGather);
    const last = gathers.at(-1) as Node;
    const firstReader = nodes.find(({ inputs }) =>
      inputs.some((input) => input && rootOf(input).node === last),
    ) as Node;
    const between = nodes.slice(last.id, firstReader.id).filter(({ op, queue }) => op.kernel && queue === 'compute');
    expect(last.queue).toBe('communication');
    expect(between.length).toBeGreaterThan(1);
  });
});
