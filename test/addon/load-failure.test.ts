import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { explainLoadFailure } from '../../src/addon/load-failure.js';

const root = mkdtempSync(join(tmpdir(), 'hadal-failure-'));
writeFileSync(join(root, 'package.json'), '{}');
afterAll(() => rmSync(root, { recursive: true }));

const file = join(root, 'prebuilds', 'linux-x64', 'hadal.glibc.node');
/** The advice: lines that begin with a number. */
const fixes = (message: string, place = root) =>
  explainLoadFailure(place, file, new Error(message))
    .split('\n')
    .filter((line) => /^ {2}\d\. /.test(line));

describe('why no native binary loads', () => {
  it('a system older than the binary: which it asks for, before building', () => {
    const message = `/lib/x86_64-linux-gnu/libc.so.6: version \`GLIBC_2.34' not found (required by ${file})\nmore`;
    expect(explainLoadFailure(root, file, new Error(message))).toContain(`\n  ${file}: ${message.split('\n')[0]}\n`);
    expect(fixes(message)).toEqual([
      expect.stringMatching(/^ {2}1\. use a newer system: .*glibc 2\.34.*here is glibc \d/),
      expect.stringMatching(/^ {2}2\. build it: npm run build:native/),
    ]);
  });

  it('a library that is missing: its package', () => {
    const message = 'libdnnl.so.2: cannot open shared object file: No such file or directory';
    expect(fixes(message)[0]).toContain('sudo apt-get install libdnnl2');
    expect(fixes(message.replace('libdnnl', 'libother'))).toHaveLength(1);
  });

  it('a bundle, which leaves the package behind', () => {
    expect(fixes('Cannot find module', join(root, 'bundle'))[0]).toContain('esbuild --external:hadal');
  });

  it('HADAL_NATIVE, when it is set', () => {
    vi.stubEnv('HADAL_NATIVE', file);
    expect(fixes('Cannot find module')[0]).toContain('HADAL_NATIVE, or unset it');
    vi.unstubAllEnvs();
  });
});
