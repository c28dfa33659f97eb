import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Arena, type Block } from '../../src/runtime/arena.js';

describe('the arena', () => {
  it('gives what is in use at the same time different places', () => {
    // Each number allocates a block of so many bytes, or, if negative, frees one of those in use.
    const script = fc.array(fc.integer({ min: -40, max: 5000 }), { maxLength: 60 });
    fc.assert(
      fc.property(script, (steps) => {
        const arena = new Arena();
        const live: Block[] = [];
        const moments: Block[][] = [];
        for (const step of steps) {
          if (step >= 0) live.push(arena.allocate(step));
          else if (live.length > 0) arena.free(live.splice(-step % live.length, 1)[0] as Block);
          moments.push([...live]);
        }
        arena.layOut();
        const total = (blocks: readonly Block[]) => blocks.reduce((sum, { bytes }) => sum + bytes, 0);
        const most = Math.max(0, ...moments.map(total));
        for (const blocks of moments) {
          const sorted = [...blocks].sort((a, b) => a.offset - b.offset);
          for (const [i, { offset, bytes }] of sorted.entries()) {
            expect(offset % 64).toBe(0);
            expect(offset + bytes).toBeLessThanOrEqual(sorted[i + 1]?.offset ?? arena.peakBytes);
          }
        }
        expect(arena.peakBytes).toBeGreaterThanOrEqual(most);
        expect(total(arena.atPeak)).toBe(most);
      }),
    );
  });

  it('needs no more than what is in use at most where long and short lives are mixed', () => {
    // One after the other, the first of each pair lives on: best fit in order of time would leave holes between them.
    const arena = new Arena();
    for (let i = 0; i < 8; i++) {
      const passing = arena.allocate(4096);
      arena.allocate(1024);
      arena.free(passing);
    }
    arena.layOut();
    expect(arena.peakBytes).toBe(4096 + 8 * 1024);
  });
});
