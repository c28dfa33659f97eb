// Two workers, one of which gets a quarter of the time (it is stopped for three quarters of each 40 ms): a parameter server,
// which goes on meanwhile, beside all-reduce, which waits. The same rows, updates and learning rates in all runs.
//
//   npm run accept -- parameter-server [updates=120] [case]
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';

const updates = Number(process.argv[2] ?? 120);
const only = process.argv[3];
const folder = mkdtempSync(join(tmpdir(), 'hadal-server-'));
const root = new URL('../../', import.meta.url);
const model = {
  ...{ model_type: 'deepseek_v3', vocab_size: 1024, hidden_size: 128, intermediate_size: 352 },
  ...{ moe_intermediate_size: 96, num_hidden_layers: 4, num_attention_heads: 4, q_lora_rank: 64, kv_lora_rank: 48 },
  ...{ qk_nope_head_dim: 32, qk_rope_head_dim: 16, v_head_dim: 32, n_routed_experts: 8, n_shared_experts: 1 },
  ...{ num_experts_per_tok: 2, n_group: 2, topk_group: 1, first_k_dense_replace: 1, num_nextn_predict_layers: 0 },
  ...{ max_position_embeddings: 256 },
};
const base = {
  model: { config: model },
  data: { sources: ['sotu'], cache: join(folder, 'data') },
  ...{ steps: updates, batch: 8, seqLen: 128, seed: 1, threads: 1, dtype: 'fp32' },
  optimizer: { lr: 2e-3, warmupSteps: 10 },
  evaluation: { batches: 16 },
};
const served = (staleness) => ({
  gradAccumulationSteps: 2,
  dist: { mode: 'parameter-server', server: { staleness } },
});
const cases = [
  { name: 'all-reduce, equal workers', slow: false, options: {} },
  { name: 'all-reduce, one 4× slower', slow: true, options: {} },
  { name: 'server, staleness 8, equal workers', slow: false, options: served(8) },
  { name: 'server, staleness 0, one 4× slower', slow: true, options: served(0) },
  { name: 'server, staleness 2, one 4× slower', slow: true, options: served(2) },
  { name: 'server, staleness 8, one 4× slower', slow: true, options: served(8) },
].filter(({ name }) => only === undefined || name.includes(only));

const program = `
  import { train } from ${JSON.stringify(new URL('dist/train/train.js', root).href)};
  import { joinWorld } from ${JSON.stringify(new URL('dist/dist/world.js', root).href)};
  const options = JSON.parse(process.argv[2]);
  const world = process.env.HADAL_ROLE ? null : await joinWorld();
  for await (const { type, step, message } of train(options, { world })) console.log(JSON.stringify({ type, step, message }));`;

const script = join(folder, 'train.mjs');
writeFileSync(script, program);

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen({ port: 0, host: '127.0.0.1' }, () => resolve(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const children = new Set();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});

function start(env, options) {
  const args = [script, JSON.stringify(options)];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.add(child);
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (some) => {
    text += some;
  });
  const ended = new Promise((resolve) => {
    child.on('close', (status) => {
      children.delete(child);
      resolve(status);
    });
  });
  return { child, ended, text: () => text };
}

/** One run. @returns what its metrics say */
async function run({ options, slow }, number) {
  const out = join(folder, `run-${number}`);
  const all = { ...base, ...options, out };
  const port = await freePort();
  const common = { HADAL_TOKEN: 'a token of this measurement' };
  const isServed = options.dist !== undefined;
  const environment = (rank) =>
    isServed
      ? { HADAL_ROLE: 'worker', HADAL_SERVER: `127.0.0.1:${port}` }
      : {
          RANK: `${rank}`,
          WORLD_SIZE: '2',
          LOCAL_RANK: `${rank}`,
          LOCAL_WORLD_SIZE: '2',
          MASTER_ADDR: '127.0.0.1',
          MASTER_PORT: `${port}`,
        };
  const server = isServed ? start({ ...common, HADAL_ROLE: 'server', HADAL_SERVER: `127.0.0.1:${port}` }, all) : null;
  const worker = start({ ...common, ...environment(0) }, all);
  const slowed = start({ ...common, ...environment(1) }, all);
  const first = server ?? worker;
  const isReady = () =>
    server ? (server.text().match(/ joined/g) ?? []).length === 2 : first.text().includes('"type":"step"');
  let over = false;
  void first.ended.then(() => {
    over = true;
  });
  while (!isReady() && !over) await sleep(10);
  while (slow && !over) {
    slowed.child.kill('SIGSTOP');
    await sleep(30);
    slowed.child.kill('SIGCONT');
    await sleep(10);
  }
  const statuses = await Promise.all([first, worker, slowed].map(({ ended }) => ended));
  if (statuses.some((status) => status !== 0)) throw new Error(`processes ended with ${statuses}`);
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  // The first ones are before all are there.
  const steps = lines.filter(({ loss, step }) => loss !== undefined && step > 20);
  const seconds = steps.reduce((sum, { stepMs }) => sum + stepMs, 0) / 1000;
  const tokens = steps.at(-1).tokens - lines.find(({ loss, step }) => loss !== undefined && step === 20).tokens;
  const counts = lines.find((line) => line.server)?.server;
  const ages = counts?.staleness.flatMap((count, age) => (count ? [[age, count]] : [])) ?? [];
  const total = ages.reduce((sum, [, count]) => sum + count, 0);
  return {
    'tokens/s': Math.round(tokens / seconds),
    'held-out loss': lines.findLast(({ evalLoss }) => evalLoss !== undefined).evalLoss.toFixed(4),
    'mean age': total ? (ages.reduce((sum, [age, count]) => sum + age * count, 0) / total).toFixed(2) : '',
    'greatest age': ages.at(-1)?.[0] ?? '',
  };
}

console.log(`parameter-server: ${updates} updates of ${base.batch} × ${base.seqLen} tokens, two workers of one thread`);
const rows = {};
try {
  for (const [number, each] of cases.entries()) {
    const load = loadavg()[0]?.toFixed(1);
    rows[each.name] = { ...(await run(each, number)), 'load before': load };
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.table(rows);
