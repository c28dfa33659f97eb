// Training whose state lies in a file: the same bits, a window of it in memory, checkpoints as ever.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { bytesOf } from '../../src/core/dtype.js';
import { sizeOf } from '../../src/core/shape.js';
import { batchFromRows } from '../../src/data/batch.js';
import { modelFromConfig } from '../../src/models/families.js';
import type { PrecisionDType } from '../../src/passes/narrow.js';
import { BackingFile } from '../../src/runtime/backing-file.js';
import type { Tensor } from '../../src/runtime/tensor.js';
import { resolveTrainConfig } from '../../src/train/config.js';
import { offloadedSlots, openOffloadFile } from '../../src/train/offload.js';
import type { StepConfig } from '../../src/train/step.js';
import { expectHadalError } from '../support/op-case.js';
import { residentFileBytes } from '../support/resident.js';
import { planHere, randomRows, stepConfig, tinyConfig, tinyStepper, updateInputs } from './tiny.js';

const directory = mkdtempSync(join(tmpdir(), 'hadal-train-offload-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** Its 5 million weights and their moments are several groups of what is fetched at once. */
const model = modelFromConfig({ ...tinyConfig, vocab_size: 4096, hidden_size: 256, intermediate_size: 1024 });
const names = ['optimizer', 'parameters'] as const;
const offloading = (...parts: (typeof names)[number][]) => ({
  optimizer: parts.includes('optimizer'),
  parameters: parts.includes('parameters'),
});

async function contentsOf(tensors: ReadonlyMap<string, Tensor>): Promise<Map<string, Buffer>> {
  const read = async ([name, tensor]: [string, Tensor]) =>
    [name, Buffer.from(await tensor.read(new Uint8Array(tensor.bytes)))] as const;
  return new Map(await Promise.all([...tensors].map(read)));
}

/** What the tensors of a run hold after a few updates, and the most of its file that was in memory. */
async function trained(config: StepConfig, accumulates: boolean) {
  using file = new BackingFile(directory);
  using run = await tinyStepper(config, { accumulates, model, file });
  const before = residentFileBytes();
  let most = 0;
  const losses: number[] = [];
  for (let step = 0; step < 3; step++) {
    const window = (accumulates ? [0, 1] : [0]).map((part) =>
      batchFromRows(randomRows(10 * step + part, [16], 4096), { seqLen: 16, mtpDepth: 1 }),
    );
    const update = run.stepper.update(window, updateInputs(step));
    let isOver = false;
    const over = update.finally(() => {
      isOver = true;
    });
    while (!isOver) {
      most = Math.max(most, residentFileBytes() - before);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    losses.push((await over).loss);
    await run.stepper.evaluate(window[0]!);
  }
  return { contents: await contentsOf(run.stepper.tensors), losses, most };
}

describe.runIf(process.platform === 'linux')('training with offloaded state', () => {
  const dtypes: PrecisionDType[] = ['fp32', 'bf16'];
  for (const dtype of dtypes) {
    for (const accumulates of [false, true]) {
      it(`leaves the same bits, ${dtype}${accumulates ? ', in two parts' : ''}`, async () => {
        const config = stepConfig(1, 16, dtype);
        const plain = await trained(config, accumulates);
        expect(plain.losses.every(Number.isFinite)).toBe(true);
        for (const offload of [offloading('optimizer'), offloading('parameters'), offloading(...names)]) {
          const offloaded = await trained({ ...config, offload }, accumulates);
          expect(offloaded.losses).toEqual(plain.losses);
          expect([...offloaded.contents.keys()].sort()).toEqual([...plain.contents.keys()].sort());
          for (const [name, bytes] of plain.contents) {
            expect(offloaded.contents.get(name)?.equals(bytes), name).toBe(true);
          }
        }
      }, 60_000);
    }
  }

  it('has no more of it in memory than was planned', async () => {
    const config = { ...stepConfig(1, 16), offload: offloading(...names) };
    const plans = await planHere(model, config, { threads: 2, accumulates: false });
    const slots = new Map(Object.values(plans).flatMap((plan) => plan.slots.map((slot) => [slot.name, slot])));
    const total = [...slots.values()]
      .filter(({ offloaded }) => offloaded)
      .reduce((sum, { dtype, shape }) => sum + bytesOf(dtype, sizeOf(shape)), 0);
    const window = Math.max(...Object.values(plans).map((plan) => plan.offloadWindowBytes));
    const { most } = await trained(config, false);
    expect(window).toBeLessThan(0.75 * total);
    expect(most).toBeGreaterThan(0.1 * window);
    expect(most).toBeLessThan(window + 2 ** 20);
  });

  it('leaves small slots, sums of gradients and outputs in memory', () => {
    const isOffloaded = offloadedSlots(model, offloading(...names));
    const large = { shape: [256, 256], dtype: 'fp32' as const };
    const parameter = 'model.embed_tokens.weight';
    expect(isOffloaded({ name: parameter, ...large })).toBe(true);
    expect(isOffloaded({ name: `working/${parameter}`, ...large })).toBe(true);
    expect(isOffloaded({ name: `adam.m/${parameter}`, ...large })).toBe(true);
    expect(isOffloaded({ name: parameter, ...large, shape: [16] })).toBe(false);
    expect(isOffloaded({ name: `gradient/${parameter}`, ...large })).toBe(false);
    const onlyState = offloadedSlots(model, offloading('optimizer'));
    expect(onlyState({ name: parameter, ...large })).toBe(false);
    expect(onlyState({ name: `adam.m/${parameter}`, ...large })).toBe(true);
    const onlyWeights = offloadedSlots(model, offloading('parameters'));
    expect(onlyWeights({ name: `working/${parameter}`, ...large })).toBe(true);
    expect(onlyWeights({ name: `adam.m/${parameter}`, ...large })).toBe(false);
  });
});

describe.runIf(process.platform === 'linux')('the file of a run', () => {
  const config = (offload: object) =>
    resolveTrainConfig({
      model: { config: tinyConfig },
      data: { sources: ['text.txt'] },
      ...{ out: directory, steps: 1, batch: 1, seqLen: 16, memory: { offload } },
    });

  it('is made where something is offloaded, in the run directory or another one', () => {
    expect(openOffloadFile(config({}), () => {})).toBeNull();
    using file = openOffloadFile(config({ optimizer: true }), () => {});
    expect(file?.directory).toBe(directory);
    using other = openOffloadFile(config({ parameters: true, directory: tmpdir() }), () => {});
    expect(other?.directory).toBe(tmpdir());
    expect(readdirSync(directory)).toEqual([]);
  });

  it('needs a directory that is there', () => {
    const given = config({ optimizer: true, directory: join(directory, 'nowhere') });
    expectHadalError(() => openOffloadFile(given, () => {}), 'HADAL_ERR_IO', /nowhere.*No such file or directory/);
  });

  it('says so where it lies in memory', () => {
    const notes: string[] = [];
    using _ = openOffloadFile(config({ optimizer: true, directory: '/dev/shm' }), (note) => notes.push(note));
    expect(notes).toEqual([expect.stringMatching(/memory.offload: \/dev\/shm lies on tmpfs, which is memory/)]);
  });
});
