import { describe, expect, it } from 'vitest';
import { Graph } from '../../src/graph/graph.js';
import { add } from '../../src/ops/elementwise.js';
import { matmul } from '../../src/ops/matmul.js';
import { gpus } from '../../src/runtime/gpus.js';
import { byKernel, predictNodes, rooflineAssumptions } from '../../src/runtime/roofline.js';

const { reachable, reachableBandwidth, reachableFp32, latencySeconds } = rooflineAssumptions;

function product(size: number, dtype: 'bf16' | 'fp32') {
  const graph = new Graph();
  const [a, b] = [graph.input('a', [size, size], dtype), graph.input('b', [size, size], dtype)];
  graph.output('c', matmul(a, b));
  return predictNodes(graph, gpus.h100);
}

describe('predictNodes', () => {
  it('a large product takes its operations by the reachable share of the tensor cores’ peak', () => {
    const [node, ...others] = product(8192, 'bf16');
    expect(others).toEqual([]);
    expect(node).toMatchObject({ kernel: 'matmul', flops: 2 * 8192 ** 3, bytes: 3 * 2 * 8192 ** 2, bound: 'compute' });
    const least = (2 * 8192 ** 3) / 989.4e12;
    expect(node?.leastSeconds).toBeCloseTo(least, 9);
    expect(node?.seconds).toBeCloseTo(least / reachable.hopper.libraryProduct + latencySeconds, 9);
  });

  it('in fp32 tensor cores have no part', () => {
    const seconds = (2 * 8192 ** 3) / (66.9e12 * reachableFp32) + latencySeconds;
    expect(product(8192, 'fp32')[0]?.seconds).toBeCloseTo(seconds, 9);
  });

  it('what only moves memory takes its bytes; a small node its latency', () => {
    const sum = (size: number) => {
      const graph = new Graph();
      const x = graph.input('x', [size], 'fp32');
      graph.output('y', add(x, x));
      return predictNodes(graph, gpus.h100)[0];
    };
    const large = sum(1 << 28);
    expect(large).toMatchObject({ kernel: 'elementwise', bound: 'memory' });
    expect(large?.seconds).toBeCloseTo((large?.bytes ?? 0) / (3352e9 * reachableBandwidth) + latencySeconds, 9);
    const small = sum(64);
    expect(small?.bound).toBe('latency');
    expect(small?.seconds).toBeGreaterThan(latencySeconds);
    expect(small?.seconds).toBeLessThan(1.001 * latencySeconds);
  });

  it('no assumption is of a share above 1', () => {
    for (const shares of Object.values(reachable))
      for (const share of Object.values(shares)) {
        expect(share).toBeGreaterThan(0);
        expect(share).toBeLessThan(1);
      }
  });
});

describe('byKernel', () => {
  it('sums what runs several times as often, the longest first', () => {
    const [once, often] = [product(1024, 'bf16'), product(4096, 'bf16').map((node) => ({ ...node, times: 3 }))];
    const [sum, ...others] = byKernel([...once, ...often]);
    expect(others).toEqual([]);
    expect(sum?.count).toBe(4);
    expect(sum?.flops).toBe(2 * 1024 ** 3 + 3 * 2 * 4096 ** 3);
    expect(sum?.seconds).toBeCloseTo((once[0]?.seconds ?? 0) + 3 * (often[0]?.seconds ?? 0), 12);
    expect(sum?.shareOfRoofline).toBeLessThan(reachable.hopper.libraryProduct);
  });
});
