// The Llama family and GPT-2 through whole runs in either number format, also where `auto` would not take it: from random weights, resumed, and on from a directory that was saved.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { loadModel } from '../../src/generate/loaded-model.js';
import { checkpointsOf, eventsOf, lastContentsOf, RunFolder, runAll, runUntil } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());

const dense = {
  vocab_size: 280,
  hidden_size: 24,
  intermediate_size: 40,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  initializer_range: 0.1,
};
const configs = {
  llama: { ...dense, model_type: 'llama', attention_bias: true, mlp_bias: true },
  qwen2: { ...dense, model_type: 'qwen2', tie_word_embeddings: true },
  gpt2: { model_type: 'gpt2', vocab_size: 280, n_positions: 64, n_embd: 24, n_layer: 2, n_head: 2 },
};
const dtypes = ['fp32', 'bf16'] as const;

it.each(Object.values(configs).flatMap((config) => dtypes.map((dtype) => ({ config, dtype }))))(
  '$config.model_type in $dtype learns, resumes to the same bits, and goes on from what was saved',
  async ({ config, dtype }) => {
    const common = { model: { config }, dtype, steps: 12, checkpoint: { every: 4, keep: 9 } };
    const whole = folder.options(common);
    const events = await runAll(whole);
    const [first, last] = [eventsOf(events, 'evaluation')[0], eventsOf(events, 'evaluation').at(-1)];
    expect(last?.evalLoss).toBeLessThan((first?.evalLoss as number) - 0.3);

    const parts = folder.options(common);
    await runUntil(parts, (event) => event.type === 'step' && event.step === 6);
    await runAll({ ...parts, resume: true });
    expect(lastContentsOf(parts.out)).toEqual(lastContentsOf(whole.out));

    const directory = join(whole.out, 'checkpoints', checkpointsOf(whole.out).at(-1) as string);
    expect(JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))).toMatchObject(config);
    const generation = { eos_token_id: [3, 9], temperature: 0.6 };
    writeFileSync(join(directory, 'generation_config.json'), JSON.stringify(generation));
    const tune = folder.options({ model: { directory }, dtype, steps: 2 });
    const tuned = await runAll(tune);
    const kept = readFileSync(join(tune.out, 'checkpoints/step-00000002/generation_config.json'), 'utf8');
    expect(JSON.parse(kept)).toEqual(generation);
    expect(eventsOf(tuned, 'evaluation')[0]?.evalLoss).toBeCloseTo(last?.evalLoss as number, 5);

    using model = await loadModel(directory, { device: 'cpu', threads: 2 });
    const ids = [];
    for await (const { id } of model.generate('The ', { maxTokens: 5, ignoreEos: true })) ids.push(id);
    expect(ids).toHaveLength(5);
  },
);
