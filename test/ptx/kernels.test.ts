// A small twin of `npm run accept -- ptx`: the first cases of some families on the PTX that nvcc makes of their sources.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
// @ts-expect-error: plain JavaScript
import { emitPtx, nvcc } from '../../scripts/ptx.mjs';
import { folder } from './machine.js';

process.env.HADAL_TEST_DEVICE = 'cuda-sim';
const families = ['rms-norm', 'softmax', 'swiglu', 'grouped-matmul'] as const;
const sources = [...families, 'elementwise', 'reduce', 'shape'];

describe.skipIf(nvcc === undefined)(
  `kernels as PTX${nvcc === undefined ? ' (skipped: nvcc is not installed)' : ''}`,
  async () => {
    if (nvcc === undefined) return it('needs nvcc', () => {});
    beforeAll(async () => {
      const made = await emitPtx(sources);
      expect(made.failed).toEqual([]);
    }, 120_000);
    // Read when the simulated GPU's library is opened, which the first case does.
    process.env.HADAL_SIM_PTX = new URL('../../build/ptx', import.meta.url).pathname;
    const report = path.join(folder, 'launches');
    process.env.HADAL_SIM_PTX_REPORT = report;
    const { describeOp } = await import('../support/op-case.js');
    for (const family of families) {
      const { cases } = await import(`../ops/${family}.cases.ts`);
      describeOp(family, cases.slice(0, 3));
    }
    it('ran on the interpreter', () => {
      const launches = readFileSync(report, 'utf8').match(/^launch /gm)?.length ?? 0;
      expect(launches).toBeGreaterThan(100);
    });
  },
);
