import { defineConfig } from 'vitest/config';

const report = process.env.HADAL_TEST_REPORT;

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    setupFiles: ['test/support/one-planning-thread.ts'],
    // A native fault must end one worker, not the whole run; two workers because kernels use threads of their own.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: report === undefined ? ['default'] : ['default', ['json', { outputFile: report }]],
  },
});
