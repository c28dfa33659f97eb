// Access tokens of other programs lie in the environment; none of ours may show them.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { workerUrl } from '../../src/core/worker-url.js';

const main = fileURLToPath(workerUrl(import.meta.url, '../../src/cli/main.js'));
const secret = 'hf_3gZq7vS1kQpXw0';
const names = ['HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN', 'WANDB_API_KEY', 'NPM_TOKEN', 'AWS_SECRET_ACCESS_KEY'];
const env = { ...process.env, HADAL_DEBUG: '3', ...Object.fromEntries(names.map((name) => [name, secret])) };

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'hadal-secrets-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

test.each([
  [['doctor']],
  [['doctor', '--json']],
  [['train', '--preset', 'test', '--steps', '2', '--out', 'run']],
  [['train', '--preset', 'test', '--config', 'nowhere.yaml']],
])('hadal %j shows no access token, in its output or its files', (args) => {
  const { stdout, stderr } = spawnSync(process.execPath, [main, ...args], { cwd: folder, env, encoding: 'utf8' });
  expect(stdout + stderr).not.toBe('');
  expect(stdout + stderr).not.toContain(secret);
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const path = join(folder, name);
    if (statSync(path).isFile()) expect(readFileSync(path).includes(secret), name).toBe(false);
  }
});
