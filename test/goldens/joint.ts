// Runs a model on packed rows with its prediction module: what training computes, without optimizer.
import { gradients } from '../../src/autodiff/gradients.js';
import { type Batch, emptyBatch, placeDocument } from '../../src/data/batch.js';
import type { Value } from '../../src/graph/graph.js';
import { batchInputs, parametersOf } from '../../src/models/model.js';
import { add, multiply } from '../../src/ops/elementwise.js';
import { linearCrossEntropy } from '../../src/ops/linear-cross-entropy.js';
import { matmul } from '../../src/ops/matmul.js';
import { reshape } from '../../src/ops/shape.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { Session, type SessionParts } from '../../src/session/session.js';

/** Rows of documents, one behind the other. */
export function packedBatch(
  rows: readonly (readonly { ids: number[]; labels: number[] }[])[],
  mtpDepth: number,
): Batch {
  const length = (row: readonly { ids: number[] }[]) => row.reduce((sum, { ids }) => sum + ids.length, 0);
  const seqLen = Math.max(...rows.map(length));
  const batch = emptyBatch(rows.length, seqLen, mtpDepth);
  for (const [b, row] of rows.entries()) {
    let at = b * seqLen;
    for (const [docId, { ids, labels }] of row.entries()) {
      placeDocument(batch, { at, docId, count: ids.length }, Int32Array.from(ids), 0, Int32Array.from(labels));
      at += ids.length;
    }
  }
  return batch;
}

/** Logits and losses of both heads, and the gradient of loss + mtpWeight · mtpLoss by name on disk. */
export async function runJoint(parts: SessionParts, batch: Batch, mtpWeight: number) {
  const session = new Session(parts);
  const { model, device } = session;
  const shape = [batch.batch, batch.seqLen];
  const program = session.program('joint', (scope) => {
    const { graph } = scope;
    const out = model.forward(scope, batchInputs(graph, batch.batch, batch.seqLen, model.mtpDepth));
    const loss = (name: string, hidden: Value) => {
      const labels = reshape(graph.input(`${name} labels`, shape, 'int32'), [-1]);
      const scale = graph.input(`${name} scale`, [1], 'fp32');
      const { loss } = linearCrossEntropy(reshape(hidden, [labels.size, -1]), out.head, labels, scale);
      graph.output(`${name} logits`, matmul(hidden, out.head, { transposeB: true }));
      graph.output(`${name} loss`, loss);
      return loss;
    };
    const main = loss('main', out.hidden);
    const joint = out.mtpHidden[0] ? add(main, multiply(loss('mtp', out.mtpHidden[0]), mtpWeight)) : main;
    const trained = [...scope.parameters.values()].filter(({ trainable }) => trainable).map(({ name }) => name);
    const found = gradients(
      joint,
      trained.map((name) => graph.slots.get(name) as Value),
    );
    for (const [i, name] of trained.entries()) graph.output(`gradient ${name}`, found[i] as Value);
  });
  const outputs = new Map(program.outputs.map((spec) => [spec.name, device.allocate(spec.shape, spec.dtype)]));
  const { tokens, positions, docIds, mtpTokens, labels, mtpLabels, counts } = batch;
  await session.run(program, Object.fromEntries(outputs), {
    tokens,
    positions,
    docIds,
    ...Object.fromEntries(mtpTokens.map((ids, k) => [`mtpTokens${k + 1}`, ids])),
    'main labels': labels,
    'main scale': Float32Array.of(1 / counts.labels),
    ...(mtpLabels[0]
      ? { 'mtp labels': mtpLabels[0], 'mtp scale': Float32Array.of(1 / (counts.mtpLabels[0] as number)) }
      : {}),
  });
  const read = async (name: string) => (outputs.get(name) as Tensor).toFloat32();
  const byName = new Map<string, { data: Float32Array }>();
  for (const { name, parts, trainable } of parametersOf(model).values()) {
    if (!trainable) continue;
    const whole = await read(`gradient ${name}`);
    for (const { name, shape, offset } of parts) {
      byName.set(name, { data: whole.subarray(offset, offset + shape.reduce((a, b) => a * b, 1)) });
    }
  }
  const mtp =
    batch.mtpTokens.length > 0 ? { logits: await read('mtp logits'), loss: (await read('mtp loss'))[0] } : null;
  const result = { logits: await read('main logits'), loss: (await read('main loss'))[0], mtp, gradients: byName };
  for (const tensor of outputs.values()) tensor.dispose();
  return result;
}
