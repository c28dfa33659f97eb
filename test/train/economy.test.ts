// Runs whose weights are shared between layers or products of two.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { openModelSource } from '../../src/session/model-source.js';
import type { TrainOptions } from '../../src/train/options.js';
import { checkpointsOf, eventsOf, lastContentsOf, metricsOf, RunFolder, runAll, runModel, runUntil } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const config = { ...runModel, num_hidden_layers: 3 };
const ties = [{ match: 'model.layers.{1,2}.self_attn.*' }, { match: 'model.layers.{1,2}.mlp.experts.*', share: 0.5 }];
const lowRank = [
  { match: 'model.layers.*.mlp.shared_experts.*', rank: 4 },
  { match: '*.{o_proj,kv_b_proj}.weight', share: 0.5 },
  { match: 'lm_head.weight', rank: 8 },
];
const kinds: Record<string, Partial<TrainOptions>> = {
  'shared weights': { model: { config, ties } },
  'products of low rank': { model: { config, lowRank } },
  'both, in bf16, with gradient accumulation': {
    model: { config, ties, lowRank },
    dtype: 'bf16',
    batch: 4,
    gradAccumulationSteps: 2,
  },
};

const last = (run: string) => join(run, 'checkpoints', checkpointsOf(run).at(-1) as string);

describe.each(Object.entries(kinds))('%s', (_, change) => {
  it('learn', async () => {
    const events = await runAll(folder.options({ dtype: 'fp32', steps: 40, ...change }));
    const losses = eventsOf(events, 'step').map(({ loss }) => loss);
    expect(losses[0]).toBeGreaterThan(5.4);
    expect(losses.at(-1)).toBeLessThan(4.6);
    const [begin, end] = eventsOf(events, 'evaluation').map(({ evalLoss }) => evalLoss);
    expect(end).toBeLessThan((begin as number) - 0.5);
  });

  it('go on from a checkpoint bit for bit', async () => {
    const common = { steps: 5, checkpoint: { every: 2, keep: 9 }, evaluation: { every: 2, batches: 2 }, ...change };
    const [whole, parts] = [folder.options(common), folder.options(common)];
    await runAll(whole);
    await runUntil({ ...parts, resume: true }, (event) => event.type === 'step' && event.step === 3);
    await runAll({ ...parts, resume: true });
    expect(lastContentsOf(parts.out)).toEqual(lastContentsOf(whole.out));
    expect(metricsOf(parts.out)).toEqual(metricsOf(whole.out));
  });
});

describe('trained weights', () => {
  it('are shared and factorised as they are loaded, which is told, and stay so in later runs', async () => {
    const first = folder.options({ dtype: 'fp32', steps: 12, model: { config } });
    const ending = eventsOf(await runAll(first), 'end')[0];
    const second = folder.options({
      dtype: 'fp32',
      steps: 2,
      model: { directory: last(first.out), ties, lowRank: [{ match: 'lm_head.weight', share: 0.8 }] },
    });
    const events = await runAll(second);
    const [start] = eventsOf(events, 'start');
    expect(start?.notes).toEqual([
      expect.stringMatching(
        /^tensors that differed between the layers that now share them: \d+; their means keep \d\d\.\d\d %/,
      ),
      expect.stringMatching(/^matrices that are now products of low rank: 1; they keep \d\d\.\d\d %/),
    ]);
    expect(start?.parameters).toBeLessThan(
      eventsOf(await runAll({ ...first, resume: true }), 'start')[0]?.parameters as number,
    );
    // Most of what was learnt is still there: the loss begins far below that of random weights.
    expect(eventsOf(events, 'evaluation')[0]?.evalLoss).toBeLessThan((ending?.initialEvalLoss as number) - 0.1);

    const third = folder.options({ dtype: 'fp32', steps: 2, model: { directory: last(second.out) } });
    const again = eventsOf(await runAll(third), 'start')[0];
    expect(again).toMatchObject({ notes: [], parameters: start?.parameters });
    expect((await openModelSource(last(third.out))).model.economy?.ties).toEqual(ties);

    // With the rules once more, and without the files of factors: nothing is lost, for the product is of that rank.
    rmSync(join(last(third.out), 'factors.safetensors'));
    const fourth = folder.options({ dtype: 'fp32', steps: 1, model: { directory: last(third.out), ties } });
    expect(eventsOf(await runAll(fourth), 'start')[0]?.notes).toEqual([expect.stringMatching(/they keep 100\.00 %/)]);
  });

  it('of another rank cannot be resumed', async () => {
    const options = folder.options({ steps: 2, checkpoint: { every: 1 }, model: { config, lowRank } });
    await runUntil(options, ({ type }) => type === 'checkpoint');
    const other = { ...options, resume: true, model: { config, lowRank: lowRank.slice(1) } };
    await expect(runAll(other)).rejects.toMatchObject({
      code: 'HADAL_ERR_CHECKPOINT',
      message: expect.stringMatching(/expected a model whose 'hadal' is/),
    });
  });
});

describe('a tied embedding', () => {
  const small = { vocab_size: 280, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 64 };
  const llama = { model_type: 'llama', hidden_size: 16, intermediate_size: 24, ...small };
  const gpt2 = { model_type: 'gpt2', vocab_size: 280, n_positions: 64, n_embd: 16, n_layer: 2, n_head: 2 };
  const models = { deepseek_v3: config, llama, gpt2 };
  it.each(Object.entries(models))('of %s learns, and is on disk once', async (family, model) => {
    const tied = family === 'gpt2' ? model : { ...model, tie_word_embeddings: true };
    const options = folder.options({ steps: 25, model: { config: tied } });
    const losses = eventsOf(await runAll(options), 'step').map(({ loss }) => loss);
    expect(losses.at(-1)).toBeLessThan((losses[0] as number) - 0.4);
    await using files = await openTensorDirectory(last(options.out));
    const names = [...files.tensors.keys()];
    expect(names).not.toContain('lm_head.weight');
    expect(names.filter((name) => /^(model\.embed_tokens|transformer\.wte)\.weight$/.test(name))).toHaveLength(1);
  });
});
