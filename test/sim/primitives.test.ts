// What the host executor says each primitive of CUDA does; native/sim/tests/primitives.cu has the cases.
import { describe, expect, it } from 'vitest';
import { isBuilt, type Order, runCases, type Sanitizer } from './cases.js';

const modes: [Sanitizer, Order][] = [
  ['none', 'forward'],
  ['none', 'reverse'],
  ['none', 'random:3'],
  ['address', 'forward'],
];

describe('primitives of the host executor', () => {
  for (const [sanitizer, order] of modes) {
    it.skipIf(!isBuilt(sanitizer))(`do what they say, in ${order} order, sanitizer: ${sanitizer}`, async () => {
      const results = await runCases('primitives', sanitizer, order);
      expect(results.size).toBeGreaterThan(10);
      expect([...results.values()].filter(({ isCaught }) => isCaught)).toEqual([]);
    });
  }
});
