// The commands as a user calls them: the compiled program in a process of its own.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const config = fileURLToPath(new URL('../../bench/peers/deepseek-14m.json', import.meta.url));
let dir: string;
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'hadal-cli-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

const plain = { ...process.env, NO_COLOR: '1', HADAL_DEBUG: '0' };

function hadal(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    cwd: dir,
    encoding: 'utf8',
    env: plain,
  });
  return { status, stdout, stderr };
}

const jsonLines = (text: string) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);

describe('help', () => {
  const commands = [
    ['init'],
    ['train'],
    ['prepare'],
    ['generate'],
    ['chat'],
    ['inspect'],
    ['tokenizer', 'train'],
    ['tokenizer', 'encode'],
    ['tokenizer', 'decode'],
    ['checkpoint', 'ls'],
    ['checkpoint', 'verify'],
    ['checkpoint', 'prune'],
    ['bench', 'step'],
    ['doctor'],
    ['completion'],
  ];
  it.each(commands.map((words) => [words.join(' ')]))('%s has --help with an example and --json', (command) => {
    const { status, stdout } = hadal(...command.split(' '), '--help');
    expect(status).toBe(0);
    expect(stdout).toContain(`$ hadal ${command}`);
    expect(stdout).toContain('--json');
  });

  it('lists every command, and says its version', () => {
    const { status, stdout } = hadal('--help');
    expect(status).toBe(0);
    for (const [command] of commands) expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
    expect(hadal('--version').stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it('is shown, with status 2, where no command is given', () => {
    const { status, stderr } = hadal();
    expect(status).toBe(2);
    expect(stderr).toContain('Usage: hadal');
  });
});

describe('wrong usage ends with status 2 and one line', () => {
  it.each<[string, string[], RegExp]>([
    ['a command nobody knows', ['trian'], /^hadal: unknown command 'trian'; did you mean train\?\n$/],
    ['a flag nobody knows', ['train', '--stpes', '3'], /^hadal: unknown option '--stpes'; did you mean --steps\?\n$/],
    ['a preset nobody knows', ['train', '--preset', 'shalow'], /Expected one of shallow, .*did you mean shallow\?\n$/],
    [
      'a number that is none',
      ['train', '--steps', 'ten'],
      /'--steps <n>' argument 'ten' is invalid\. Expected a whole number from 1 on\n$/,
    ],
    ['a number too small', ['bench', 'step', '--config', 'x', '--seq', '1'], /Expected a whole number from 2 on\n$/],
    [
      'a share too large',
      ['generate', '--model', 'x', '--prompt', 'y', '--top-p', '2'],
      /Expected a number from 0 to 1\n$/,
    ],
    ['a missing flag', ['generate', '--prompt', 'x'], /^hadal: required option '--model <path>' not specified\n$/],
    ['no prompt', ['generate', '--model', 'x'], /expected --prompt or --prompt-file, got neither\n$/],
    ['a word too many', ['doctor', 'please'], /^hadal: too many arguments/],
    ['a preset nearly named', ['inspect', 'deepseek-v4'], /got 'deepseek-v4'; did you mean 'deepseek-v3'\?\n$/],
    [
      'a directory that is not there',
      ['generate', '--model', 'nowhere', '--prompt', 'x'],
      /^hadal: \[file\] expected to read nowhere.*ENOENT.*\n$/,
    ],
    ['text that is none', ['tokenizer', 'train', '--data', 'none.txt', '--vocab-size', '300', '--out', 'x'], /ENOENT/],
    [
      'a vocabulary too small',
      ['tokenizer', 'train', '--data', 'synthetic', '--vocab-size', '9', '--out', 'x'],
      /expected a vocabulary of 259/,
    ],
  ])('%s', (_, args, message) => {
    const { status, stdout, stderr } = hadal(...args);
    expect(stderr).toMatch(message);
    expect(stderr.trim().split('\n').length).toBe(1);
    expect(status).toBe(2);
    expect(stdout).toBe('');
  });

  it('damaged data end with status 3', () => {
    writeFileSync(join(dir, 'bad.jsonl'), '{"text": 1}\n');
    const { status, stderr } = hadal('tokenizer', 'train', '--data', 'bad.jsonl', '--vocab-size', '300', '--out', 'x');
    expect(stderr).toMatch(/bad\.jsonl:1/);
    expect(status).toBe(3);
  });

  it('errors are JSON on stdout for those that ask, with a stack under HADAL_DEBUG', () => {
    const { status, stdout } = hadal('inspect', 'nothing', '--json');
    expect(status).toBe(2);
    expect(jsonLines(stdout)).toEqual([
      { error: { code: 'HADAL_ERR_USAGE', message: expect.stringContaining("got 'nothing'"), exitStatus: 2 } },
    ]);
    expect(jsonLines(hadal('inspekt', '--json').stdout)).toEqual([
      { error: expect.objectContaining({ code: 'HADAL_ERR_USAGE' }) },
    ]);
    const loud = spawnSync(process.execPath, [main, 'inspect', 'nothing'], {
      encoding: 'utf8',
      env: { ...plain, HADAL_DEBUG: '1' },
    });
    expect(loud.stderr).toMatch(/\n {4}at /);
  });
});

describe('inspect, doctor, bench, tokenizer', () => {
  it('inspect prints totals with and without multi-token prediction', () => {
    const { status, stdout } = hadal('inspect', 'deepseek-v3', '--no-plan');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^without multi-token prediction +671,026,419,200 /m);
    expect(stdout).toMatch(/^with multi-token prediction +682,636,487,424 /m);
    expect(hadal('inspect', 'deepseek-v2-lite', '--no-plan').stdout).toContain('15,706,484,224');
  });

  it('inspect --json has counts and memory', () => {
    const { stdout } = hadal('inspect', config, '--batch', '2', '--seq', '64', '--dtype', 'fp32', '--json');
    const [found] = jsonLines(stdout) as [{ memory: { weights: number } }];
    expect(found).toMatchObject({
      family: 'deepseek_v3',
      seqLen: 64,
      model: { parameters: 14_320_080, flopsPerToken: expect.any(Number) },
      withMtp: null,
      memory: { batch: 2, seqLen: 64, activations: expect.any(Number) },
    });
    // In whole pages.
    expect(found.memory.weights / (4 * 14_320_080)).toBeGreaterThanOrEqual(1);
    expect(found.memory.weights / (4 * 14_320_080)).toBeLessThan(1.01);
  });

  it('doctor --json lists what it looked at', () => {
    const { status, stdout } = hadal('doctor', '--json');
    const { findings, environment } = jsonLines(stdout)[0] as {
      findings: { name: string; status: string }[];
      environment: { name: string }[];
    };
    expect(status).toBe(0);
    expect(findings.map(({ name }) => name)).toEqual([
      'Node',
      'CPU',
      'CPU offers',
      'native binary',
      'oneDNN',
      'CUDA',
      'devices',
      'Gloo',
      'NCCL',
      'memory',
      'disk',
      'TensorFlow.js',
      'Python',
    ]);
    expect(findings.every((finding) => ['ok', 'optional'].includes(finding.status))).toBe(true);
    expect(environment.map(({ name }) => name)).toContain('HADAL_DEBUG');
  });

  it('doctor says how to get a native binary that does not load, with status 1', () => {
    const env = { ...plain, HADAL_NATIVE: join(dir, 'none.node') };
    const { status, stdout } = spawnSync(process.execPath, [main, 'doctor'], { encoding: 'utf8', env });
    expect(stdout).toMatch(/^!! {2}native binary +does not load\n.*none\.node[\s\S]*npm run build:native/m);
    expect(status).toBe(1);
  });

  it('train without a native binary is refused before anything is made', () => {
    const env = { ...plain, HADAL_NATIVE: join(dir, 'none.node') };
    const cwd = mkdtempSync(join(dir, 'bare-'));
    const args = [main, 'train', '--preset', 'test', '--data', 'synthetic'];
    const { status, stderr } = spawnSync(process.execPath, args, { cwd, encoding: 'utf8', env });
    expect(stderr).toContain('none.node');
    expect(status).not.toBe(0);
    expect(readdirSync(cwd)).toEqual([]);
  });

  it('bench step --json prints what was measured', () => {
    const { status, stdout } = hadal(
      'bench',
      'step',
      '--config',
      config,
      '--batch',
      '2',
      '--seq',
      '16',
      '--steps',
      '3',
      '--warmup',
      '1',
      '--json',
    );
    expect(status).toBe(0);
    const [measured] = jsonLines(stdout);
    expect(Object.keys(measured ?? {})).toEqual([
      'tokens_per_s',
      'step_ms',
      'peak_rss_mb',
      'loss_first',
      'loss_last',
      'params',
      'flops_per_token',
    ]);
    expect(measured).toMatchObject({ params: 14_320_080 });
    // Random tokens of a vocabulary of 8192: the first loss is about its logarithm.
    expect(measured?.loss_first).toBeCloseTo(Math.log(8192), 0);
    for (const value of Object.values(measured ?? {})) expect(value).toBeGreaterThan(0);
  });

  it('tokenizer trains, encodes and decodes', () => {
    const trained = hadal('tokenizer', 'train', '--data', 'synthetic', '--vocab-size', '300', '--out', 'tok', '--json');
    expect(jsonLines(trained.stdout)).toEqual([{ out: 'tok', vocabSize: 300 }]);
    const again = hadal('tokenizer', 'train', '--data', 'synthetic', '--vocab-size', '280', '--out', 'tok');
    expect(again).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('without a tokenizer, got tok') as unknown,
    });
    const { ids } = jsonLines(
      hadal('tokenizer', 'encode', '--tokenizer', 'tok', 'Das Meer, 海.', '--json').stdout,
    )[0] as { ids: number[] };
    expect(hadal('tokenizer', 'encode', '--tokenizer', 'tok', 'Das Meer, 海.').stdout).toBe(`${ids.join(' ')}\n`);
    expect(hadal('tokenizer', 'decode', '--tokenizer', 'tok', ...ids.map(String)).stdout).toBe('Das Meer, 海.\n');
    const piped = spawnSync(process.execPath, [main, 'tokenizer', 'decode', '--tokenizer', 'tok', '--json'], {
      cwd: dir,
      encoding: 'utf8',
      env: plain,
      input: JSON.stringify(ids),
    });
    expect(jsonLines(piped.stdout)).toEqual([{ text: 'Das Meer, 海.' }]);
    expect(hadal('tokenizer', 'decode', '--tokenizer', 'tok', '300').stderr).toMatch(/ids from 0 to 299, got '300'/);
  });
});

describe('train and generate', () => {
  it('trains, samples, names what can be done next; generates from the result', () => {
    const { status, stdout, stderr } = hadal(
      'train',
      '--preset',
      'test',
      '--steps',
      '30',
      '--out',
      'runs/a',
      '--threads',
      '1',
    );
    expect(stderr).toBe('');
    expect(status).toBe(0);
    expect(stdout).toMatch(/^step {3}30\/30 {2}loss \d/m);
    expect(stdout).toMatch(/^ {7}held-out loss \d.*bits\/byte$/m);
    expect(stdout).toMatch(/^sample The cat/m);
    expect(stdout).not.toContain('\x1b');
    const model = join('runs', 'a', 'checkpoints', 'step-00000030');
    expect(stdout).toContain(`generate --model ${model} --prompt "The cat"`);
    expect(readdirSync(join(dir, 'runs', 'a')).some((name) => name.startsWith('events.out.tfevents.'))).toBe(true);

    const args = ['generate', '--model', model, '--prompt', 'The', '--max-tokens', '8', '--seed', '5'];
    const text = hadal(...args).stdout;
    expect(hadal(...args).stdout).toBe(text);
    expect(hadal(...args).stderr).toMatch(
      /^prefill \d+ tokens, [\d.]+ tokens\/s; decode 8 tokens, [\d.]+ tokens\/s\n$/,
    );
    const lines = jsonLines(hadal(...args, '--json').stdout);
    const { summary } = lines.pop() as { summary: object };
    const pieces = lines as { index: number; text: string; id: number; logprob: number; finishReason: string | null }[];
    expect(`The${pieces.map((piece) => piece.text).join('')}\n`).toBe(text);
    expect(pieces.every(({ id, logprob, index }) => Number.isInteger(id) && logprob <= 0 && index === 0)).toBe(true);
    expect(pieces.map(({ finishReason }) => finishReason)).toEqual([...Array(pieces.length - 1).fill(null), 'length']);
    expect(summary).toMatchObject({
      prompts: [{ finishReason: 'length', generatedTokens: 8 }],
      tokensPerSecond: expect.any(Number),
    });

    // Several prompts, one of a file: one after the other, the first as when it is alone.
    writeFileSync(join(dir, 'prompt.txt'), 'A cat');
    const more = ['--prompt', 'Every', '--prompt-file', 'prompt.txt', '--cache', 'expanded'];
    const texts = hadal(...args, ...more).stdout;
    expect(texts.startsWith(`${text}Every`)).toBe(true);
    expect(texts).toMatch(/\nA cat.*\n$/s);
    const drafted = hadal(...args, '--speculative');
    expect(drafted.stdout).toBe(text);
    expect(drafted.stderr).toMatch(/[\d.]+ % of \d+ drafts accepted\n$/);
    expect(hadal(...args, '--stop', text.slice(5, 8)).stdout).toBe(
      `${text.slice(0, text.indexOf(text.slice(5, 8), 3))}\n`,
    );
    expect(hadal('chat', '--model', model).stderr).toMatch(/chat template.*--template file\.jinja/);
  });

  it('--json gives every event as a line, and nothing else', () => {
    const { status, stdout } = hadal(
      'train',
      '--preset',
      'test',
      '--steps',
      '3',
      '--out',
      'runs/b',
      '--threads',
      '1',
      '--json',
    );
    expect(status).toBe(0);
    const types = jsonLines(stdout).map(({ type }) => type);
    expect(types.filter((type) => type !== 'prepare')).toEqual([
      'start',
      'evaluation',
      'step',
      'step',
      'step',
      'evaluation',
      'checkpoint',
      'end',
      'sample',
      'sample',
    ]);
  });

  it('saves on Ctrl-C, ends with 130 and says how to go on; resuming does', async () => {
    const args = ['train', '--preset', 'test', '--steps', '100000', '--out', 'runs/c', '--threads', '1'];
    const child = spawn(process.execPath, [main, ...args], { cwd: dir, env: plain });
    let [stdout, stderr] = ['', ''];
    child.stderr.on('data', (text) => {
      stderr += text;
    });
    child.stdout.on('data', (text) => {
      if (!stdout.includes('step   11/') && (stdout + text).includes('step   11/')) {
        child.kill('SIGINT');
      }
      stdout += text;
    });
    const status = await new Promise((resolve) => child.on('exit', resolve));
    expect(status).toBe(130);
    expect(stdout).toContain('stopping after this step');
    expect(stderr).toMatch(/interrupted after \d+ of 100000 steps.*is saved/);
    expect(stderr).toMatch(/continue with: node .*main\.js train --out runs\/c --resume\n$/);
    const [saved = ''] = readdirSync(join(dir, 'runs', 'c', 'checkpoints'));
    const last = Number(saved.slice('step-'.length));

    const resumed = hadal('train', '--out', 'runs/c', '--resume', '--steps', String(last + 2), '--json');
    const steps = jsonLines(resumed.stdout)
      .filter(({ type }) => type === 'step')
      .map(({ step }) => step);
    expect(steps).toEqual([last + 1, last + 2]);
    const metrics = jsonLines(readFileSync(join(dir, 'runs', 'c', 'metrics.jsonl'), 'utf8')).filter(
      ({ loss }) => loss !== undefined,
    );
    expect(metrics.map(({ step }) => step)).toEqual(Array.from({ length: last + 2 }, (_, i) => i + 1));
    expect(existsSync(join(dir, 'runs', 'c', 'run.lock'))).toBe(false);
  });

  it('a run directory that holds a run is left alone', () => {
    expect(hadal('train', '--preset', 'test', '--steps', '2', '--out', 'runs/d', '--threads', '1').status).toBe(0);
    const { status, stderr } = hadal('train', '--preset', 'test', '--steps', '2', '--out', 'runs/d');
    expect(status).toBe(2);
    expect(stderr).toMatch(/runs\/d holds a run; give --resume/);
  });
});
