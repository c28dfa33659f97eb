// Types that users build on. `tsc` (a step of `npm run check`) is the test: a line that is marked must be an error, every
// other line must be none.
import { expectTypeOf } from 'vitest';
import type { z } from 'zod';
import type { configFileSchema } from '../../src/cli/config-schema.js';
import {
  type ConfigFile,
  defineConfig,
  type GeneratedText,
  type HadalError,
  inspect,
  loadModel,
  type Piece,
  type PresetName,
  presets,
  type TrainEvent,
  type TrainOptions,
  train,
} from '../../src/index.js';
import type { trainSchema } from '../../src/train/config.js';

const options: TrainOptions = { ...presets.test(), out: 'runs/mine' };

// The interfaces that are made from the schemas, with comments for editors, say what the schemas take.
expectTypeOf<TrainOptions>().toEqualTypeOf<z.input<typeof trainSchema>>();
expectTypeOf<ConfigFile>().toEqualTypeOf<z.input<typeof configFileSchema>>();

// Events are told apart by their type.
for await (const event of train(options)) {
  expectTypeOf(event).toEqualTypeOf<TrainEvent>();
  if (event.type === 'step') expectTypeOf(event.loss).toBeNumber();
  if (event.type === 'end') expectTypeOf(event.checkpoint).toBeString();
  // @ts-expect-error: only a step has one
  event.gradNorm;
}
void train(options, { signal: new AbortController().signal });

// @ts-expect-error: a run needs a place
void train(presets.test());
// @ts-expect-error: a misspelt field
void train({ ...options, optimiser: {} });
// @ts-expect-error: a misspelt field within a section
defineConfig({ optimizer: { leanringRate: 1e-3 } });
// @ts-expect-error: devices have names
void train({ ...options, device: 0 });
defineConfig({ optimizer: { lr: 1e-3 } });

expectTypeOf<PresetName>().toEqualTypeOf<'shallow' | 'test' | 'gpt2-124m' | 'deepseek-v2-lite' | 'deepseek-v3'>();

{
  using model = await loadModel('exported', { dtype: 'bf16', threads: 2 });
  const { logits, shape } = await model.forward([[1, 2, 3]]);
  expectTypeOf(logits).toEqualTypeOf<Float32Array>();
  expectTypeOf(shape).toEqualTypeOf<[number, number, number]>();
  const { gradients } = await model.lossAndGradients([[1]], [[1]]);
  expectTypeOf(gradients.get('lm_head.weight')?.data).toEqualTypeOf<Float32Array | undefined>();
  for await (const piece of model.generate('The', { topK: 5, stop: ['\n'] }))
    expectTypeOf(piece).toEqualTypeOf<Piece>();
  expectTypeOf(await model.generateText([1, 2])).toEqualTypeOf<GeneratedText>();
  // @ts-expect-error: a prompt is a text or ids
  model.generate(12);
  // @ts-expect-error: several prompts are another method
  model.generateText(['a', 'b']);
}

const { memory, model } = await inspect('config.json');
expectTypeOf(memory?.total).toEqualTypeOf<number | undefined>();
expectTypeOf(model.parameters).toBeNumber();

expectTypeOf<HadalError['code']>().extract<'HADAL_ERR_CONFIG'>().toBeString();
expectTypeOf<HadalError['exitStatus']>().toBeNumber();
