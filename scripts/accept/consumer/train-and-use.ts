// The public API from TypeScript, as its readers use it: trains, generates, computes, saves, opens again.
import assert from 'node:assert/strict';
import { type EndEvent, HadalError, inspect, loadModel, prepare, presets, type StepEvent, train } from 'hadal';
import { loadTensorflow } from 'hadal/tfjs';

const out = process.argv[2] ?? 'runs/api';
const steps: StepEvent[] = [];
let end: EndEvent | undefined;
for await (const event of train({ ...presets.test(), out })) {
  if (event.type === 'step') steps.push(event);
  if (event.type === 'end') end = event;
}
assert.equal(steps.length, 100);
assert.ok(end);
const [first = Number.NaN, last = Number.NaN] = [steps[0]?.loss, steps.at(-1)?.loss];
assert.ok(last < first - 1, `the loss fell from ${first} to ${last}`);

using model = await loadModel(end.checkpoint, { device: 'cpu', dtype: 'fp32' });
let text = '';
for await (const piece of model.generate('The cat', { maxTokens: 30, temperature: 0.8, seed: 1 })) text += piece.text;
assert.ok(text.length > 10, `generated '${text}'`);

// The same greedy tokens from every cache, in a batch, and with drafts.
const greedy = { maxTokens: 30, temperature: 0 } as const;
const plain = await model.generateText('The cat', greedy);
for (const options of [{ cache: 'latent' }, { cache: 'expanded' }, { speculative: true }] as const) {
  assert.deepEqual((await model.generateText('The cat', { ...greedy, ...options })).ids, plain.ids);
}
const batched: number[] = [];
for await (const { index, id } of model.generateBatch(['Every child', 'The cat'], greedy))
  if (index === 1) batched.push(id);
assert.deepEqual(batched, plain.ids);

const prepared = await prepare({ sources: ['synthetic'], tokenizer: end.checkpoint, out: `${out}/prepared` });
assert.ok(prepared.train.tokens > 1000);
// TensorFlow.js is optional: without it, the error says what to install.
await assert.rejects(loadTensorflow(), (error) => error instanceof HadalError && error.code === 'HADAL_ERR_NATIVE');

const ids = [[1, 2, 3, 4, 5]];
const { logits, shape } = await model.forward(ids);
assert.deepEqual(shape, [1, 5, 320]);
assert.ok(logits.every(Number.isFinite));
const { loss, gradients } = await model.lossAndGradients(ids, ids);
assert.ok(Number.isFinite(loss));
const norm = gradients.get('model.norm.weight');
assert.ok(norm?.data.some((value) => value !== 0));

await model.save(`${out}/exported`);
using again = await loadModel(`${out}/exported`);
assert.deepEqual((await again.forward(ids)).logits, logits);
const { model: totals, memory } = await inspect(`${out}/exported`);
assert.ok(totals.parameters > 10_000);
assert.ok(memory && memory.total > totals.parameters * 4);
await assert.rejects(loadModel('nowhere'), (error) => error instanceof HadalError && error.code === 'HADAL_ERR_IO');

console.log(
  `loss ${first.toFixed(2)} to ${last.toFixed(2)}, '${text.slice(0, 24).trim()}…', ${gradients.size} gradients`,
);
