import { describe, expect, it } from 'vitest';
import { bits, byteSizes } from '../../src/cli/bench-comm.js';
import { bandwidths, busFactor, type CompressionTime, commLines, onLink } from '../../src/cli/comm-report.js';

describe('sizes and speeds', () => {
  it('are read as people write them', () => {
    expect(byteSizes('4K, 1m,64M,12')).toEqual([4096, 2 ** 20, 2 ** 26, 12]);
    expect(bits('1Gbit')).toBe(1e9);
    expect(bits('2.5gbit/s')).toBe(2.5e9);
    expect(bits('100Mbit')).toBe(1e8);
  });

  it.each(['', '4KB', '6', '-4', '8G', '1M,,2M'])('refuse sizes %s', (text) => {
    expect(() => byteSizes(text)).toThrow('Expected sizes like 4K,1M,64M');
  });

  it.each(['', '1', '1GB', '0Gbit', '1Gbyte'])('refuse a speed %s', (text) => {
    expect(() => bits(text)).toThrow('Expected a speed like 1Gbit');
  });
});

it('bandwidths are those of nccl-tests', () => {
  const time = { bytes: 1e9, ms: 500, calls: 1, sentBytes: 0 };
  expect(bandwidths({ ...time, collective: 'all-reduce' }, 4)).toEqual({ algorithmGbs: 2, busGbs: 3 });
  expect(bandwidths({ ...time, collective: 'all-gather' }, 4)).toEqual({ algorithmGbs: 2, busGbs: 1.5 });
  expect(busFactor('reduce-scatter', 2)).toBe(0.5);
  expect(busFactor('all-to-all', 8)).toBe(0.875);
  expect(busFactor('broadcast', 8)).toBe(1);
});

describe('a compression', () => {
  const none: CompressionTime = { kind: 'none', bytes: 4e8, ms: 90, computeMs: 0, sentBytes: 4e8, error: 0 };
  const half: CompressionTime = { kind: 'half', bytes: 4e8, ms: 60, computeMs: 100, sentBytes: 2e8, error: 1e-3 };

  it('pays below the speed at which computing takes as long as what is not sent', () => {
    const [plain, gained] = onLink([none, half], 1e9);
    expect(plain).toEqual({ kind: 'none', bytes: 4e8, ms: 3200, factor: 1, paysBelow: null });
    expect(gained).toEqual({ kind: 'half', bytes: 4e8, ms: 1700, factor: 3200 / 1700, paysBelow: 16e9 });
    // At that speed, both take as long.
    const [, even] = onLink([none, half], 16e9);
    expect(even?.factor).toBeCloseTo(1, 12);
  });

  it('never pays where it sends more, and always where it costs nothing', () => {
    const [, more, free] = onLink([none, { ...half, sentBytes: 5e8 }, { ...half, computeMs: 0 }], 1e9);
    expect(more?.paysBelow).toBeNull();
    expect(more?.factor).toBeLessThan(1);
    expect(free?.paysBelow).toBe(Number.POSITIVE_INFINITY);
  });

  it('is shown in tables', () => {
    const lines = commLines({
      ...{ ranks: 2, threads: 1, compressions: [none, half] },
      collectives: [{ collective: 'all-reduce', bytes: 2 ** 20, ms: 1, calls: 5, sentBytes: 2 ** 20 }],
      link: { bitsPerSecond: 1e9, times: onLink([none, half], 1e9) },
    });
    expect(lines.join('\n')).toMatchInlineSnapshot(`
      "2 processes of 1 thread; medians on rank 0

      collective      size     time  GB/s  bus GB/s      sent  calls
      all-reduce  1.00 MiB  1.00 ms  1.05      1.05  1.00 MiB      5

      compression   gradient     time  of it computing       sent   error
      none         381.5 MiB  90.0 ms          0.00 ms  381.5 MiB       0
      half         381.5 MiB  60.0 ms           100 ms  190.7 MiB  1.0e-3

      On a link of 1 Gbit/s, computing and sending:
      compression   gradient     time  as fast  pays below
      none         381.5 MiB  3200 ms    1.00×
      half         381.5 MiB  1700 ms    1.88×   16 Gbit/s"
    `);
  });
});
