import { execFile } from 'node:child_process';
import { readFile, statfs } from 'node:fs/promises';
import os from 'node:os';
import { promisify } from 'node:util';
import { addonFile, loadAddon } from '../addon/addon.js';
import { envFlags } from '../core/env.js';
import { formatBytes } from '../core/format.js';
import { usableProcessors } from '../core/processors.js';
import { workerUrl } from '../core/worker-url.js';
import type { TensorflowAttempt } from '../tfjs/tensorflow.js';
import { printJson, printLine } from './output.js';

/** One thing that was looked at. `missing` keeps hadal from running; `optional` only makes it slower or less handy. */
interface Finding {
  name: string;
  status: 'ok' | 'optional' | 'missing';
  found: string;
  /** How to get what is not there; null where nothing is to be done. */
  advice: string | null;
}

/** Looks at the machine and prints what it found. Exit status 1 when hadal cannot run here. */
export async function runDoctor(json: boolean): Promise<void> {
  const findings = [
    node(),
    cpu(),
    await instructions(),
    ...native(),
    ...gpus(),
    collectives('gloo', 'in several processes on CPUs: sudo apt-get install libgloo-dev, then npm run build:native'),
    collectives('nccl', 'on several GPUs: install libnccl2, or set HADAL_NCCL to the path of libnccl.so.2'),
    memory(),
    await disk(),
    await tensorflow(),
    await python(),
  ];
  const environment = Object.entries(envFlags).map(([name, effect]) => ({
    name,
    value: process.env[name] ?? null,
    effect,
  }));
  if (findings.some(({ status }) => status === 'missing')) process.exitCode = 1;
  if (json) return printJson({ findings, environment });
  const marks = { ok: 'ok', optional: '--', missing: '!!' };
  for (const { name, status, found, advice } of findings) {
    printLine(`${marks[status]}  ${name.padEnd(16)}${found}`);
    if (advice) printLine(advice.replace(/^/gm, ' '.repeat(20)));
  }
  printLine('\nEnvironment variables:');
  for (const { name, value, effect } of environment)
    printLine(`  ${name.padEnd(22)}${value === null ? 'not set' : `= ${value}`}  (${effect})`);
}

const leastNode = [20, 19] as const;

function node(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const isNew = major > leastNode[0] || (major === leastNode[0] && minor >= leastNode[1]);
  const advice = isNew ? null : `install Node ${leastNode.join('.')} or later from https://nodejs.org`;
  return {
    name: 'Node',
    status: isNew ? 'ok' : 'missing',
    found: `${process.versions.node}, ${process.platform} ${process.arch}`,
    advice,
  };
}

function cpu(): Finding {
  const model = os.cpus()[0]?.model.trim() ?? 'unknown';
  return { name: 'CPU', status: 'ok', found: `${model}, ${usableProcessors()} threads`, advice: null };
}

const interesting = ['avx2', 'fma', 'avx512f', 'avx512_bf16', 'avx512_vnni', 'amx_tile', 'amx_bf16', 'asimd', 'sve'];

async function instructions(): Promise<Finding> {
  const info = await readFile('/proc/cpuinfo', 'utf8').catch(() => '');
  const flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(info)?.[1]?.trim().split(/\s+/));
  const found = interesting.filter((flag) => flags.has(flag)).join(' ');
  return { name: 'CPU offers', status: 'ok', found: found || 'not known on this system', advice: null };
}

function native(): Finding[] {
  try {
    const { isa, onednn } = loadAddon().features();
    const get =
      'slower portable products serve; to change that: sudo apt-get install libdnnl-dev, then npm run build:native';
    const isBuiltIn = /^oneDNN \d/.test(onednn);
    const products: Finding = {
      name: 'oneDNN',
      status: isBuiltIn ? 'ok' : 'optional',
      found: onednn,
      advice: isBuiltIn ? null : get,
    };
    const found = `${addonFile()}, kernels for ${isa}`;
    return [{ name: 'native binary', status: 'ok', found, advice: null }, products];
  } catch (error) {
    const [, ...advice] = (error as Error).message.split('\n');
    return [{ name: 'native binary', status: 'missing', found: 'does not load', advice: advice.join('\n') }];
  }
}

/** GPUs, or why there are none; and whether the simulated one is here. */
function gpus(): Finding[] {
  try {
    const { backend } = loadAddon();
    const { isBuilt, devices, libraries, why } = backend('cuda');
    const list = devices.map(({ name, major, minor, memoryBytes }, i) => {
      return `cuda:${i} ${name} (${major}.${minor}, ${formatBytes(memoryBytes)})`;
    });
    const none = isBuilt ? `none: ${why}` : 'none: this build has no CUDA kernels';
    const found = list.length > 0 ? [...list, ...libraries].join('; ') : none;
    const advice = isBuilt
      ? 'install NVIDIA’s driver 580 or later'
      : 'in a checkout, where CUDA 13 is installed: npm run build:cuda';
    const simulated = backend('cuda-sim').isBuilt ? 'cpu, cuda-sim (GPU kernels executed by the CPU)' : 'cpu';
    return [
      {
        name: 'CUDA',
        status: list.length > 0 ? 'ok' : 'optional',
        found,
        advice: list.length > 0 ? null : `needed only for training on GPUs: ${advice}`,
      },
      {
        name: 'devices',
        status: 'ok',
        found: [simulated, ...devices.map((_, i) => `cuda:${i}`)].join(', '),
        advice: null,
      },
    ];
  } catch {
    return []; // what native() said
  }
}

/** Whether a backend of process groups can be opened: a group of two is made, and not joined. */
function collectives(backend: 'gloo' | 'nccl', advice: string): Finding {
  const name = { gloo: 'Gloo', nccl: 'NCCL' }[backend];
  try {
    new (loadAddon().ProcessGroup)({ backend, rank: 1, size: 2, timeoutMs: 1 }).dispose();
    return { name, status: 'ok', found: 'can be opened', advice: null };
  } catch {
    return { name, status: 'optional', found: 'cannot be opened', advice: `needed only for training ${advice}` };
  }
}

const smallMemory = 2 ** 30;

function memory(): Finding {
  const [free, total] = [process.availableMemory?.() ?? os.freemem(), os.totalmem()];
  const isSmall = free < smallMemory;
  return {
    name: 'memory',
    status: isSmall ? 'optional' : 'ok',
    found: `${formatBytes(free)} available of ${formatBytes(total)}`,
    advice: isSmall ? 'preset shallow takes about 1 GiB; close other programs, or lower --set batch' : null,
  };
}

async function disk(): Promise<Finding> {
  const { bavail, bsize } = await statfs('.');
  const free = bavail * bsize;
  const isSmall = free < smallMemory;
  const advice = isSmall
    ? 'checkpoints take three times the parameters; choose another --out, or free some space'
    : null;
  return { name: 'disk', status: isSmall ? 'optional' : 'ok', found: `${formatBytes(free)} free here`, advice };
}

/** Only `hadal/tfjs` uses it. Loaded in a process of its own: it writes to the terminal, and its native code is not ours. */
async function tensorflow(): Promise<Finding> {
  const name = 'TensorFlow.js';
  const bridge = workerUrl(import.meta.url, '../tfjs/tensorflow.js').href;
  const code = `import { tryTensorflow } from ${JSON.stringify(bridge)};
    process.stdout.write('\\n' + JSON.stringify(tryTensorflow().attempts));`;
  try {
    const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', code], {
      timeout: 30_000,
    });
    const attempts = JSON.parse(stdout.slice(stdout.lastIndexOf('\n'))) as TensorflowAttempt[];
    const installed = attempts.filter(({ version }) => version !== null);
    const problems = installed.filter(({ problem }) => problem !== null);
    const loads = installed.find(({ problem }) => problem === null);
    const others = problems.map((attempt) => `${attempt.name} ${attempt.problem}`).join('; ');
    return {
      name,
      status: loads ? 'ok' : 'optional',
      found: loads ? `${loads.name} ${loads.version}` : problems.length > 0 ? 'does not load' : 'not installed',
      advice:
        others || (loads ? null : 'only for hadal/tfjs: npm install @tensorflow/tfjs-node-gpu, tfjs-node or tfjs'),
    };
  } catch {
    const advice = 'only hadal/tfjs needs it; load it by itself to see what is wrong';
    return { name, status: 'optional', found: 'ends the process that loads it, or hangs', advice };
  }
}

const versions = `import json
found = {}
for name in ('torch', 'transformers', 'tensorboard'):
    try: found[name] = __import__(name).__version__
    except Exception: pass
print(json.dumps(found))`;

/** Only comparisons and TensorBoard use Python. */
async function python(): Promise<Finding> {
  const name = 'Python';
  try {
    const { stdout } = await promisify(execFile)('python3', ['-c', versions], { timeout: 30_000 });
    const found = Object.entries(JSON.parse(stdout) as Record<string, string>).map(
      ([peer, version]) => `${peer} ${version}`,
    );
    if (found.length > 0) return { name, status: 'ok', found: found.join(', '), advice: null };
    return {
      name,
      status: 'optional',
      found: 'without torch, transformers, tensorboard',
      advice: 'only for comparisons and plots: pip install torch transformers tensorboard',
    };
  } catch {
    return {
      name,
      status: 'optional',
      found: 'python3 does not run',
      advice: 'only for comparisons and plots; nothing of hadal needs it',
    };
  }
}
