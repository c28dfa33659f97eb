// Faults on purpose (native/sim/tests/planted.cu) and who must find them; the same code without its fault must pass everywhere.
import { describe, expect, it } from 'vitest';
import { isBuilt, type Order, runCases, type Sanitizer } from './cases.js';

const modes = {
  forward: ['none', 'forward'],
  reverse: ['none', 'reverse'],
  random: ['none', 'random:7'],
  address: ['address', 'forward'],
  thread: ['thread', 'forward'],
} as const satisfies Record<string, [Sanitizer, Order]>;
type Mode = keyof typeof modes;

interface Fault {
  by: Mode[];
  /** In what the finder prints. */
  says: RegExp;
}
const everywhere: Mode[] = ['forward', 'reverse', 'random', 'address', 'thread'];
const anyOrder: Mode[] = ['forward', 'reverse', 'random'];
const deadlock = (where: RegExp): Fault => ({
  by: everywhere,
  says: new RegExp(`deadlock in block \\(0, 0, 0\\)[\\s\\S]*${where.source}[\\s\\S]*kernel: `),
});
const refused = (says: RegExp): Fault => ({ by: everywhere, says });
const isNan: Fault = { by: everywhere, says: /wrong result at \d+: expected .*, got -?nan/ };
const outside: Fault = { by: ['address'], says: /AddressSanitizer: heap-buffer-overflow .*planted\.cu/ };
const isRace: Fault = { by: ['thread'], says: /ThreadSanitizer: data race .*planted/ };
const wrongOrRace: Fault = {
  by: ['random', 'thread'],
  says: /wrong result at|ThreadSanitizer: data race .*planted/,
};

const faults: Record<string, Fault> = {
  // Threads that never meet.
  'divergent-barriers': deadlock(/threads 0…31 .* waits at __syncthreads\(\), planted\.cu:\d+/),
  'exit-before-barrier': deadlock(/threads 40…63 .* has ended/),
  'exit-before-shuffle': deadlock(/waits at __shfl_xor_sync with mask 0xffffffff/),
  'lane-outside-mask': refused(/lane \d+\) at planted\.cu:\d+.*reads lane 31, which its mask 0x0000ffff does not name/),
  'mask-without-itself': refused(/mask 0x7fffffff.*does not name/),
  'different-masks': deadlock(/a vote of the warp with mask 0x0001ffff[\s\S]*a vote of the warp with mask 0xffffffff/),
  'different-operations': deadlock(/a vote of the warp[\s\S]*__shfl_sync/),
  'mask-beyond-block': refused(/mask 0xffffffff in a warp of only 16 lanes/),
  'product-by-half-a-warp': deadlock(/multiplyAdd \(mma\)/),
  'matrices-by-half-a-warp': deadlock(/loadMatrices \(ldmatrix\)/),
  'misaligned-matrix-row': refused(/ldmatrix of a row that is not aligned/),
  'misaligned-copy': refused(/cp\.async of 16 bytes .* not aligned/),
  'too-little-shared': refused(/shared memory seen as 512 bytes, of which the launch gave 256/),
  // Out of bounds.
  'past-shared-memory': {
    by: [...anyOrder, 'address'],
    says: /access to memory that is not there|heap-buffer-overflow .*planted\.cu/,
  },
  'before-shared-memory': outside,
  'past-global-write': outside,
  'past-global-read': outside,
  'far-outside': refused(/access to memory that is not there|SEGV/),
  // Memory that holds nothing yet.
  'uninitialised-shared': isNan,
  'uninitialised-global': isNan,
  'copy-not-awaited': isNan,
  'group-not-committed': isNan,
  // Order in memory.
  'copy-without-barrier': { by: everywhere, says: /wrong result at .* got -?nan|ThreadSanitizer: data race/ },
  'read-before-written': { by: everywhere, says: /wrong result at .* got -?nan|ThreadSanitizer: data race/ },
  'reused-too-early': wrongOrRace,
  'warp-not-synchronised': wrongOrRace,
  'warp-for-block': wrongOrRace,
  'shuffle-as-fence': isRace,
  'sum-without-atomics': isRace,
  'blocks-overlap': isRace,
  'last-block-without-fence': isRace,
  // Host code.
  'unsynchronised-read': isNan,
  'missing-event': isNan,
  'staging-used-again': refused(/wrong result at 0: expected 3\.0+, got 5\.0+/),
  'host-pointer': refused(/argument 1 points to memory that is neither the device's nor pinned/),
  'freed-memory': refused(/argument 1 points to memory that is neither the device's nor pinned/),
  'copy-leaves-allocation': refused(/a copy of 512 bytes leaves its allocation/),
  'wrong-kind': refused(/a copy from device to device memory that is called kind 1/),
  'too-large-grid': refused(/cannot launch 1 x 65536 x 1 blocks.*invalid argument/),
  'too-much-shared': refused(/with 167936 bytes of shared memory: invalid argument/),
  'wait-while-capturing': refused(/a stream that is captured cannot be waited for/),
  'stream-not-joined': refused(/a stream of the capture was not waited for at its end/),
  'graph-without-edge': { by: ['reverse'], says: /wrong result at .* got -?nan/ },
};

describe('planted faults', () => {
  for (const [mode, [sanitizer, order]] of Object.entries(modes)) {
    it.skipIf(!isBuilt(sanitizer))(`${mode}: found where they must be, and nothing else`, async () => {
      const sought = Object.keys(faults).filter((name) => faults[name]?.by.includes(mode as Mode));
      // ThreadSanitizer's processes begin slowly: it is asked about memory, and for the clean twins.
      const isSlow = mode === 'thread';
      const asked = sought.filter((name) => !isSlow || (faults[name]?.by.length ?? 0) < everywhere.length);
      const clean = Object.keys(faults).map((name) => `${name}-clean`);
      const results = await runCases('planted', sanitizer, order, [...asked, ...clean]);
      expect([...results.keys()].sort()).toEqual([...asked, ...clean].sort());
      for (const name of asked) {
        expect(results.get(name)?.isCaught, name).toBe(true);
        expect(results.get(name)?.text, name).toMatch(faults[name]?.says as RegExp);
      }
      for (const name of clean) expect(results.get(name), name).toEqual({ name, isCaught: false, text: '' });
    });
  }

  it.skipIf(!isBuilt('none'))('are all in the table', async () => {
    const results = await runCases('planted', 'none', 'forward');
    const planted = [...results.keys()].filter((name) => !name.endsWith('-clean'));
    expect(planted.sort()).toEqual(Object.keys(faults).sort());
  });
});
