// Decoding by the whole sequence anew for each token: what the decoders must equal. And a model that has learnt something.
import { batchFromRows } from '../../src/data/batch.js';
import { modelFromConfig } from '../../src/models/families.js';
import { batchInputs } from '../../src/models/model.js';
import { matmul } from '../../src/ops/matmul.js';
import { Session } from '../../src/session/session.js';
import { Rng } from '../support/rng.js';
import { stepConfig, tinyConfig, tinyStepper, updateInputs } from '../train/tiny.js';

/** Index of the largest number. */
export const argmax = (logits: ArrayLike<number>) =>
  Array.from(logits).reduce((best, logit, id, all) => (logit > (all[best] as number) ? id : best), 0);

export const randomIds = (seed: string, length: number, vocabSize: number) => {
  const rng = new Rng(seed);
  return Array.from({ length }, () => rng.integer(vocabSize));
};

/** Logits after the last token. */
export async function logitsAnew(session: Session, ids: readonly number[]): Promise<Float32Array> {
  const { logits, shape } = await session.forward([ids]);
  return logits.slice(logits.length - shape[2]);
}

/** Greedy tokens, and the logits that each was chosen by. */
export async function greedyAnew(session: Session, prompt: readonly number[], count: number) {
  const ids = [...prompt];
  const logits: Float32Array[] = [];
  while (ids.length < prompt.length + count) {
    logits.push(await logitsAnew(session, ids));
    ids.push(argmax(logits.at(-1) as Float32Array));
  }
  return { ids: ids.slice(prompt.length), logits };
}

/** What the prediction modules draft behind known tokens, each from the whole sequence, as in training. */
export async function draftsAnew(session: Session, known: readonly number[], count: number): Promise<number[]> {
  const { model, device } = session;
  const ids = [...known];
  for (let depth = 1; depth <= count; depth++) {
    const positions = known.length - 1;
    const program = session.program(`drafts ${positions}`, (scope) => {
      const { mtpHidden, head } = model.forward(scope, batchInputs(scope.graph, 1, positions, model.mtpDepth));
      for (const [k, hidden] of mtpHidden.entries())
        scope.graph.output(`logits${k + 1}`, matmul(hidden, head, { transposeB: true }));
    });
    const outputs = Object.fromEntries(
      program.outputs.map(({ name, shape, dtype }) => [name, device.allocate(shape, dtype)]),
    );
    const { tokens, positions: at, docIds } = batchFromRows([ids.slice(0, positions)]);
    const further = Array.from({ length: model.mtpDepth }, (_, k) => [
      `mtpTokens${k + 1}`,
      Int32Array.from({ length: positions }, (_, i) => ids[i + k + 1] ?? 0),
    ]);
    await session.run(program, outputs, { tokens, positions: at, docIds, ...Object.fromEntries(further) });
    const logits = (await outputs[`logits${depth}`]?.toFloat32()) as Float32Array;
    ids.push(argmax(logits.subarray(logits.length - model.vocabSize)));
    for (const tensor of Object.values(outputs)) tensor.dispose();
  }
  return ids.slice(known.length);
}

/** Steps of greedy speculation until `count` tokens are there. */
export async function speculationAnew(session: Session, prompt: readonly number[], count: number) {
  const { ids } = await greedyAnew(session, prompt, count + session.model.mtpDepth);
  const steps = [];
  for (let done = 0; done < count; ) {
    const known = [...prompt, ...ids.slice(0, done)];
    const drafts = done === 0 ? [] : await draftsAnew(session, known, session.model.mtpDepth);
    let accepted = 0;
    while (accepted < drafts.length && drafts[accepted] === ids[done + accepted]) accepted++;
    steps.push({ ids: ids.slice(done, done + accepted + 1), drafted: drafts.length, accepted });
    done += accepted + 1;
  }
  return steps;
}

/** Runs of numbers that go on by a step of their own, sometimes broken off: predictable, but for the breaks. */
function learnableRow(rng: Rng, length: number): number[] {
  const row: number[] = [];
  for (let [at, step] = [0, 1]; row.length < length; at = (at + step) % 61) {
    if (row.length === 0 || rng.uniform() < 0.1) [at, step] = [rng.integer(61), 1 + rng.integer(3)];
    row.push(at);
  }
  return row;
}

/** A tiny DeepSeek-V3 trained for some steps, and rows like those it was trained on. */
export async function trainedModel(steps: number, change: Record<string, unknown> = {}) {
  const model = modelFromConfig({ ...tinyConfig, ...change });
  const run = await tinyStepper(stepConfig(8, 32), { model });
  const rng = new Rng('learnable');
  const rows = (count: number, length: number) => Array.from({ length: count }, () => learnableRow(rng, length));
  for (let step = 0; step < steps; step++) {
    const batch = batchFromRows(rows(8, 32), { seqLen: 32, mtpDepth: model.mtpDepth });
    await run.stepper.update([batch], updateInputs(step, { lr: 1e-2 }));
  }
  const session = new Session({ model, tensors: run.stepper.tensors, device: run.device, tokenizer: null });
  return {
    session,
    rows,
    [Symbol.dispose]() {
      session.dispose();
      run[Symbol.dispose]();
    },
  };
}
