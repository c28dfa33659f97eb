// Every way to end amidst every kind of work, thirty times, at different moments: no crash, no hang, the right status.
//
//   npm run accept -- ending [times=30]
import { spawnSync } from 'node:child_process';

const times = process.argv[2] ?? '30';
const vitest = ['node_modules/vitest/vitest.mjs', 'run', '--reporter=verbose', 'test/runtime/ending.test.ts'];
const { status } = spawnSync(process.execPath, vitest, {
  cwd: new URL('../..', import.meta.url),
  env: { ...process.env, HADAL_TEST_ENDINGS: times },
  stdio: 'inherit',
});
process.exitCode = status ?? 1;
