// Logits, losses and the gradient of every parameter against transformers in float64.
import { afterAll, describe, expect, it } from 'vitest';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { modelFromConfig } from '../../src/models/families.js';
import { readFloats } from '../../src/session/model-directory.js';
import { openModel, openSession, type SessionParts } from '../../src/session/session.js';
import { relativeNorm } from '../support/compare.js';
import { type GoldenTensor, goldenDir, readGolden, rowsOf, tensorOf, withPrefix } from './golden.js';
import { packedBatch, runJoint } from './joint.js';

/** ‖a − b‖ / ‖b‖ of a tensor; README.md says why this is fair to fp32. */
const bar = 1e-5;

const rows: string[][] = [];
afterAll(() => {
  const row = (cells: readonly string[]) => cells.map((cell, i) => cell.padEnd(i === 0 ? 26 : 10)).join('');
  const header = ['relative error', 'logits', 'loss', 'gradient', 'of'];
  console.log([header, ...rows].map(row).join('\n'));
});

type Found = ReadonlyMap<string, { data: ArrayLike<number> }>;

/** Records and checks a case. Every gradient that is expected must be there and no other. */
function check(
  name: string,
  actual: { logits: ArrayLike<number>; loss: number | undefined; gradients?: Found },
  expected: { logits: ArrayLike<number>; loss: ArrayLike<number>; gradients?: ReadonlyMap<string, GoldenTensor> },
): void {
  const logits = relativeNorm(actual.logits, expected.logits);
  const loss = relativeNorm([actual.loss ?? Number.NaN], expected.loss);
  const errors = [...(expected.gradients ?? [])]
    .map(([parameter, { data }]) => ({
      parameter,
      error: relativeNorm(actual.gradients?.get(parameter)?.data ?? [], data),
    }))
    .sort((a, b) => b.error - a.error);
  const worst = errors[0];
  const digits = (error: number | undefined) => error?.toExponential(1) ?? '';
  rows.push([name, digits(logits), digits(loss), digits(worst?.error), worst?.parameter ?? '']);
  expect(logits, 'logits').toBeLessThan(bar);
  expect(loss, 'loss').toBeLessThan(bar);
  if (!actual.gradients) return;
  expect([...actual.gradients.keys()].sort()).toEqual(errors.map(({ parameter }) => parameter).sort());
  expect(errors.filter(({ error }) => !(error < bar))).toEqual([]);
}

describe('goldens', () => {
  const open = async (name: string) => openModel(goldenDir(name), { device: 'cpu', threads: 2 });
  const release = ({ tensors, device }: SessionParts) => {
    for (const tensor of tensors.values()) tensor.dispose();
    device.dispose();
  };

  const plain = `deepseek_v3 deepseek_v3_no_q_lora deepseek_v3_half_rope deepseek_v3_yarn deepseek_v2 deepseek_v2_group gpt2
    llama llama_llama3_rope llama_biases qwen2 qwen2_yarn mistral`;
  for (const name of plain.split(/\s+/)) {
    it(name, async () => {
      const golden = await readGolden(name);
      using session = await openSession(goldenDir(name), { device: 'cpu', threads: 2 });
      const ids = rowsOf(golden, 'input_ids');
      const { logits, shape } = await session.forward(ids);
      expect(shape).toEqual(tensorOf(golden, 'logits').shape);
      const { loss, gradients } = await session.lossAndGradients(ids, rowsOf(golden, 'labels'));
      const expected = withPrefix(golden, 'grad.');
      check(
        name,
        { logits, loss, gradients },
        { logits: tensorOf(golden, 'logits').data, loss: tensorOf(golden, 'loss').data, gradients: expected },
      );
      for (const [parameter, { shape }] of expected) expect(gradients.get(parameter)?.shape, parameter).toEqual(shape);
    });
  }

  it('packed_documents', async () => {
    const golden = await readGolden('packed_documents');
    const parts = await open('deepseek_v3');
    const batch = packedBatch([documentsOf(golden)], 0);
    expect(Array.from(batch.docIds)).toEqual(Array.from(tensorOf(golden, 'document_ids').data));
    expect(Array.from(batch.positions)).toEqual(Array.from(tensorOf(golden, 'position_ids').data));
    check('packed_documents', await runJoint(parts, batch, 0), expectedOf(golden));
    release(parts);
  });

  it('deepseek_v3_mtp', async () => {
    const golden = await readGolden('deepseek_v3_mtp');
    const parts = await open('deepseek_v3_mtp');
    const [ids, labels] = [rowsOf(golden, 'input_ids'), rowsOf(golden, 'labels')];
    const batch = packedBatch(
      ids.map((row, b) => [{ ids: row, labels: labels[b] as number[] }]),
      1,
    );
    const vocab = parts.model.vocabSize;
    // The last position has no next token.
    const predicted = (logits: Float32Array) =>
      logits.filter((_, i) => Math.floor(i / vocab) % batch.seqLen < batch.seqLen - 1);

    const { logits, loss, mtp, gradients } = await runJoint(parts, batch, 0.3);
    check(
      'deepseek_v3_mtp',
      { logits, loss, gradients },
      { ...expectedOf(golden), gradients: withPrefix(golden, 'joint.grad.') },
    );
    const module = (name: string, found: typeof mtp) =>
      check(
        name,
        { logits: predicted(found?.logits ?? new Float32Array()), loss: found?.loss },
        { logits: tensorOf(golden, `${name}.logits`).data, loss: tensorOf(golden, `${name}.loss`).data },
      );
    module('mtp', mtp);
    const model = modelFromConfig({ ...parts.model.toHuggingFace(), mtp_hidden: 'pre-norm' });
    module('mtp_prenorm', (await runJoint({ ...parts, model }, batch, 0.3)).mtp);
    release(parts);
  });

  it('deepseek_v3_mtp on packed documents', async () => {
    const golden = await readGolden('deepseek_v3_mtp', 'packed.safetensors');
    const parts = await open('deepseek_v3_mtp');
    const batch = packedBatch([documentsOf(golden)], 1);
    expect(batch.counts.mtpLabels).toEqual(Array.from(tensorOf(golden, 'mtp.targets').data));
    const { logits, mtp } = await runJoint(parts, batch, 0.3);
    expect(relativeNorm(logits, tensorOf(golden, 'logits').data)).toBeLessThan(bar);
    const vocab = parts.model.vocabSize;
    const known = (values: Float32Array) => values.filter((_, i) => ![6, 15].includes(Math.floor(i / vocab)));
    check(
      'mtp on packed documents',
      { logits: known(mtp?.logits ?? new Float32Array()), loss: mtp?.loss },
      { logits: known(tensorOf(golden, 'mtp.logits').data as Float32Array), loss: tensorOf(golden, 'mtp.loss').data },
    );
    release(parts);
  });

  it('fp8_blocks, bit for bit', async () => {
    const golden = await readGolden('fp8_blocks');
    await using files = await openTensorDirectory(goldenDir('fp8_blocks'));
    for (const name of ['proj.weight', 'codes.weight']) {
      expect(await readFloats(files, name)).toEqual(tensorOf(golden, name).data);
    }
  });
});

const expectedOf = (golden: ReadonlyMap<string, GoldenTensor>) => ({
  logits: tensorOf(golden, 'logits').data,
  loss: golden.get('loss')?.data ?? [],
  gradients: withPrefix(golden, 'grad.'),
});

/** The documents of one packed row. */
function documentsOf(golden: ReadonlyMap<string, GoldenTensor>) {
  const [documents = [], ids = [], labels = []] = ['document_ids', 'input_ids', 'labels'].map(
    (name) => rowsOf(golden, name)[0],
  );
  return [...new Set(documents)].map((document) => {
    const [begin, end] = [documents.indexOf(document), documents.lastIndexOf(document) + 1];
    return { ids: ids.slice(begin, end), labels: labels.slice(begin, end) };
  });
}
