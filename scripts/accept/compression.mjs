// Gradient compression in training: two processes over Gloo train a small DeepSeek-V3 on English, with every kind of
// compression. Rounding to 16 bits and to 8 must not show in the held-out loss; top-k and PowerSGD must do what the same algorithms do in
// PyTorch, from the same weights on the same batches, within the bytes that they promise.
//
//   npm run accept -- compression [kinds=none,fp16,int8,topk,powersgd] [steps=300] [python=python3]
//
// PyTorch's side needs torch, numpy and transformers; without them it is skipped, which is said.
import { fork, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { resolveSources } from '../../dist/data/sources.js';

const [kindList = 'none,fp16,int8,topk,powersgd', stepCount = '300', python = 'python3'] = process.argv.slice(2);
const kinds = kindList.split(',');
const ranks = 2;
const folder = mkdtempSync(join(tmpdir(), 'hadal-compression-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const task = {
  ranks,
  model: {
    model_type: 'deepseek_v3',
    vocab_size: 256,
    hidden_size: 192,
    intermediate_size: 512,
    moe_intermediate_size: 96,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    q_lora_rank: 64,
    kv_lora_rank: 32,
    qk_nope_head_dim: 32,
    qk_rope_head_dim: 16,
    v_head_dim: 32,
    n_routed_experts: 8,
    n_shared_experts: 1,
    num_experts_per_tok: 4,
    n_group: 1,
    topk_group: 1,
    norm_topk_prob: true,
    routed_scaling_factor: 1.5,
    first_k_dense_replace: 1,
    num_nextn_predict_layers: 0,
    max_position_embeddings: 256,
    initializer_range: 0.04,
    tie_word_embeddings: false,
  },
  tokens: join(folder, 'tokens.bin'),
  weights: join(folder, 'weights.bin'),
  batch: 16,
  seqLen: 128,
  steps: Number(stepCount),
  lr: 1e-3,
  warmup: 20,
  evalRows: 128,
};
const settings = { errorFeedback: true, density: 0.01, rank: 4, startStep: 0 };

// Bytes of English as tokens: no tokenizer is needed.
const files = await resolveSources({ sources: ['sotu'] });
const text = Buffer.concat(files.slice(-40).map(({ path }) => readFileSync(path)));
const count = (task.steps * task.batch + task.evalRows) * task.seqLen;
const tokens = Int32Array.from({ length: count }, (_, i) => /** @type {number} */ (text[i % text.length]));
writeFileSync(task.tokens, tokens);
const labels = task.evalRows * (task.seqLen - 1);

/** @typedef {{ losses: number[], sent: number, evalLoss: number }} Result */

/** Trains in two processes. @param {string} kind @returns {Promise<Result>} */
async function train(kind) {
  const script = fileURLToPath(new URL('support/compression-rank.mjs', import.meta.url));
  const children = Array.from({ length: ranks }, () =>
    fork(script, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] }),
  );
  /** @type {number[][]} */
  const addresses = [];
  try {
    const results = await Promise.all(
      children.map(
        (child, rank) =>
          /** @type {Promise<Result>} */ (
            new Promise((resolve, reject) => {
              child.on('message', (/** @type {any} */ message) => {
                if (message.error) reject(new Error(message.error));
                if (message.done) resolve(message.done);
                if (!message.address) return;
                addresses[rank] = message.address;
                if (Object.keys(addresses).length === ranks) for (const one of children) one.send({ addresses });
              });
              child.on('exit', (code) => reject(new Error(`rank ${rank} ended with ${code}`)));
              const errorFeedback = kind === 'int8' || kind === 'topk' || kind === 'powersgd';
              child.send({ task: { ...task, rank, compression: { ...settings, kind, errorFeedback } } });
            })
          ),
      ),
    );
    const [first] = /** @type {[Result]} */ (/** @type {unknown} */ (results));
    return { ...first, evalLoss: results.reduce((sum, { evalLoss }) => sum + evalLoss, 0) / labels };
  } finally {
    for (const child of children) child.kill('SIGKILL');
  }
}

/** The same in PyTorch; null where it is not installed. @param {string} kind @returns {Result | null} */
function trainInPyTorch(kind) {
  const installed = spawnSync(python, ['-c', 'import torch, numpy, transformers'], { stdio: 'ignore' });
  if (installed.status !== 0) return null;
  const file = join(folder, 'task.json');
  writeFileSync(file, JSON.stringify({ ...task, ...settings, kind }));
  const script = fileURLToPath(new URL('support/compression_peer.py', import.meta.url));
  const { status, stdout } = spawnSync(python, [script, file], { stdio: ['ignore', 'pipe', 'inherit'] });
  if (status !== 0) throw new Error('the program in PyTorch failed');
  return JSON.parse(stdout.toString());
}

console.log(
  `compression: ${task.steps} updates of ${task.batch} × ${task.seqLen} bytes of English, ${ranks} processes of one thread`,
);
console.log(`on ${cpus().length} processors (${cpus()[0]?.model}), load ${loadavg()[0]?.toFixed(1)}`);
/** @type {Map<string, Result>} */
const results = new Map();
/** @type {[string, boolean][]} */
const checks = [];
const percent = (/** @type {number} */ a, /** @type {number} */ b) => (100 * (a - b)) / b;
for (const kind of kinds) {
  const began = performance.now();
  const result = await train(kind);
  results.set(kind, result);
  const none = results.get('none');
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  const least = none ? `, 1/${(none.sent / result.sent).toFixed(1)} of fp32's` : '';
  const gap = none ? `, ${percent(result.evalLoss, none.evalLoss).toFixed(2)} % above uncompressed` : '';
  console.log(
    `${kind.padEnd(9)} ${seconds.padStart(4)} s  held-out loss ${result.evalLoss.toFixed(4)}${gap}; ${result.sent} bytes an update${least}`,
  );
  if (none && (kind === 'fp16' || kind === 'int8' || kind === 'bf16')) {
    checks.push([`${kind}: within 0.5 % of uncompressed`, Math.abs(percent(result.evalLoss, none.evalLoss)) <= 0.5]);
  }
  if (kind !== 'topk' && kind !== 'powersgd') continue;
  const share = kind === 'topk' ? 50 : 16;
  if (none) checks.push([`${kind}: at most 1/${share} of the bytes`, none.sent / result.sent >= share]);
  const peer = trainInPyTorch(kind);
  if (!peer) {
    console.log(`skipped: ${kind} beside PyTorch, which ${python} has not`);
    continue;
  }
  const apart = percent(result.evalLoss, peer.evalLoss);
  console.log(`${''.padEnd(17)} PyTorch ${peer.evalLoss.toFixed(4)}: ours is ${apart.toFixed(2)} % above it`);
  checks.push([`${kind}: within 0.5 % of the same in PyTorch`, Math.abs(apart) <= 0.5]);
}
for (const [name, holds] of checks) console.log(`${holds ? 'ok    ' : 'FAILED'} ${name}`);
if (checks.some(([, holds]) => !holds)) process.exitCode = 1;
