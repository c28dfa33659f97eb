// A small twin of `npm run accept -- ptx`: the first cases of some families on the PTX that nvcc makes of their sources.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
// @ts-expect-error: plain JavaScript
import { emitPtx, nvcc } from '../../scripts/ptx.mjs';
import { loadAddon } from '../../src/addon/addon.js';
import { folder } from './machine.js';

process.env.HADAL_TEST_DEVICE = 'cuda-sim';
// Read when the simulated GPU's library is opened, which is after this.
process.env.HADAL_SIM_PTX = new URL('../../build/ptx', import.meta.url).pathname;
process.env.HADAL_SIM_PTX_REPORT = path.join(folder, 'launches');
const missing =
  nvcc === undefined ? 'nvcc is not installed' : loadAddon().backend('cuda-sim').isBuilt ? '' : 'no simulated GPU';
const families = ['rms-norm', 'softmax', 'swiglu', 'grouped-matmul'] as const;
const sources = [...families, 'elementwise', 'reduce', 'shape'];

describe.skipIf(missing !== '')(`kernels as PTX${missing && ` (skipped: ${missing})`}`, async () => {
  if (missing !== '') return it('needs what is missing', () => {});
  beforeAll(async () => {
    const made = await emitPtx(sources);
    expect(made.failed).toEqual([]);
  }, 120_000);
  const { describeOp } = await import('../support/op-case.js');
  for (const family of families) {
    const { cases } = await import(`../ops/${family}.cases.ts`);
    describeOp(family, cases.slice(0, 3));
  }
  it('ran on the interpreter', () => {
    const launches = readFileSync(process.env.HADAL_SIM_PTX_REPORT as string, 'utf8').match(/^launch /gm)?.length ?? 0;
    expect(launches).toBeGreaterThan(100);
  });
});
