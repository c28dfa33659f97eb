import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { openSession } from '../../src/session/session.js';
import { forwardTfjs, weightsFromTfjs, weightsToTfjs } from '../../src/tfjs/model.js';
import { toTfjs } from '../../src/tfjs/tensors.js';
import { goldenDir, readGolden, rowsOf, tensorOf } from '../goldens/golden.js';
import { relativeNorm } from '../support/compare.js';

const open = (name: string, dtype = 'fp32') => openSession(goldenDir(name), { device: 'cpu', threads: 2, dtype });
const refusal = (code: string, message: RegExp) => ({ code, message: expect.stringMatching(message) });

let tensorsBefore = 0;
beforeEach(() => {
  tf.engine().startScope();
  tensorsBefore = tf.memory().numTensors;
});
afterEach(() => {
  tf.engine().endScope();
});

it("forward gives the golden's logits as a tensor, from rows and from tensors of ids", async () => {
  using model = await open('deepseek_v3');
  const golden = await readGolden('deepseek_v3');
  const rows = rowsOf(golden, 'input_ids');
  const expected = tensorOf(golden, 'logits');
  const logits = await forwardTfjs(model, rows, tf);
  expect([logits.dtype, logits.shape]).toEqual(['float32', expected.shape]);
  expect(relativeNorm(await logits.data(), expected.data)).toBeLessThan(1e-5);
  const ids = tf.tensor2d(rows, undefined, 'int32');
  expect(await (await forwardTfjs(model, ids, tf)).data()).toEqual(await logits.data());
  const first = await forwardTfjs(model, tf.tensor1d(rows[0]!, 'int32'), tf);
  expect(first.shape).toEqual([1, ...expected.shape.slice(1)]);
  expect(ids.isDisposed).toBe(false);
});

it('refuses tensors that are no ids', async () => {
  using model = await open('gpt2');
  const shape = refusal('HADAL_ERR_SHAPE', /\[T\] or \[B, T\], got \[1, 1, 2\]/);
  await expect(forwardTfjs(model, tf.tensor1d([1, 2]), tf)).rejects.toMatchObject(
    refusal('HADAL_ERR_DTYPE', /float32/),
  );
  await expect(forwardTfjs(model, tf.tensor3d([[[1, 2]]], undefined, 'int32'), tf)).rejects.toMatchObject(shape);
  await expect(forwardTfjs(model, tf.tensor1d([], 'int32'), tf)).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
  await expect(forwardTfjs(model, tf.tensor1d([5000], 'int32'), tf)).rejects.toMatchObject({ code: 'HADAL_ERR_DATA' });
});

it('weights go out by their Hugging Face names, and into another model', async () => {
  using model = await open('deepseek_v3_mtp');
  const { gradients } = await model.lossAndGradients([[1, 2, 3]], [[1, 2, 3]]);
  const weights = await weightsToTfjs(model, { tf });
  for (const [name, { shape }] of gradients) expect(weights.get(name)?.shape).toEqual(shape);
  // In the model: a scaled head scales the logits.
  const name = 'lm_head.weight';
  const before = await forwardTfjs(model, [[1, 2, 3]], tf);
  const doubled = tf.mul(weights.get(name) as tf.Tensor, 2);
  await weightsFromTfjs(model, { [name]: doubled });
  const after = await forwardTfjs(model, [[1, 2, 3]], tf);
  expect(relativeNorm(await after.data(), await tf.mul(before, 2).data())).toBeLessThan(1e-6);
  // And the first ones restore it; a map serves as well.
  await weightsFromTfjs(model, weights);
  expect(await (await forwardTfjs(model, [[1, 2, 3]], tf)).data()).toEqual(await before.data());
});

it('a model of bf16 rounds what it takes', async () => {
  using model = await open('gpt2', 'bf16');
  const name = 'transformer.ln_f.weight';
  const [before] = (await weightsToTfjs(model, { names: [name], tf })).values();
  expect(before?.dtype).toBe('float32');
  await weightsFromTfjs(model, { [name]: tf.fill(before?.shape ?? [], 1 + 2 ** -7 + 2 ** -12) });
  const after = (await weightsToTfjs(model, { names: [name], tf })).get(name);
  expect(new Set(await (after as tf.Tensor).data())).toEqual(new Set([1 + 2 ** -7]));
});

it('refuses names and shapes before it writes anything', async () => {
  using model = await open('gpt2');
  const name = 'transformer.ln_f.weight';
  const weights = await weightsToTfjs(model, { names: [name], tf });
  const zeros = tf.zerosLike(weights.get(name) as tf.Tensor);
  const unknown = refusal('HADAL_ERR_CHECKPOINT', /'transformer.ln_f.wieght'; did you mean 'transformer.ln_f.weight'/);
  const shape = refusal('HADAL_ERR_CHECKPOINT', /wte.weight' of shape \[\d+, \d+\], got \[1\]/);
  const dtype = refusal('HADAL_ERR_DTYPE', /ln_f.bias' as float32, got int32/);
  const wrong: [Record<string, tf.Tensor>, object][] = [
    [{ 'transformer.ln_f.wieght': zeros }, unknown],
    [{ 'transformer.wte.weight': tf.ones([1]) }, shape],
    [{ 'transformer.ln_f.bias': tf.cast(zeros, 'int32') }, dtype],
  ];
  for (const [more, error] of wrong)
    await expect(weightsFromTfjs(model, { [name]: zeros, ...more })).rejects.toMatchObject(error);
  const same = (await weightsToTfjs(model, { names: [name], tf })).get(name) as tf.Tensor;
  expect(await same.data()).toEqual(await (weights.get(name) as tf.Tensor).data());

  const held = tf.memory().numTensors;
  await expect(weightsToTfjs(model, { names: [name, 'nothing like it'], tf })).rejects.toMatchObject({
    code: 'HADAL_ERR_CHECKPOINT',
  });
  expect(tf.memory().numTensors).toBe(held);
  model.dispose();
  await expect(weightsToTfjs(model, { tf })).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  await expect(weightsFromTfjs(model, { [name]: zeros })).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
  await expect(forwardTfjs(model, [[1]], tf)).rejects.toMatchObject({ code: 'HADAL_ERR_DISPOSED' });
});

it('makes one tensor a call', async () => {
  using model = await open('gpt2');
  await forwardTfjs(model, [[1, 2]], tf);
  await toTfjs(model.tensors.get('transformer.ln_f.weight')!, tf);
  expect(tf.memory().numTensors).toBe(tensorsBefore + 2);
});
