import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const accept = fileURLToPath(new URL('../../scripts/accept.mjs', import.meta.url));

// Small twin of `npm run accept -- startup`; how long it takes depends on what else the machine does.
it('a run of prepared data begins its first step within seconds', () => {
  const { stdout, stderr, status } = spawnSync(process.execPath, [accept, 'startup', 'test', '1', '10'], {
    encoding: 'utf8',
  });
  expect(stderr).toBe('');
  expect(stdout).toMatch(/run 1, seconds until: program .*, start .*, evaluation .*, step /);
  expect(status, stdout).toBe(0);
});
