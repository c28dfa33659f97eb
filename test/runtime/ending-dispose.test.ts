// Whatever is under way when a model is disposed of settles, and says so. In this process; the ways that end a process
// have ending.test.ts.
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { HadalError } from '../../src/core/errors.js';
import { loadModel } from '../../src/generate/loaded-model.js';
import { openDevice } from '../../src/runtime/device.js';
import { goldenDir } from '../goldens/golden.js';

const folder = mkdtempSync(join(tmpdir(), 'hadal-dispose-'));
afterAll(() => rmSync(folder, { recursive: true }));

const ids = [1, 2, 3, 4, 5, 6, 7, 8];
const disposed = { code: 'HADAL_ERR_DISPOSED', message: expect.stringMatching(/^\[\w+\] /) };

describe('a disposed model', () => {
  it('settles all calls under way, thirty times', async () => {
    let [done, refused] = [0, 0];
    for (let i = 0; i < 30; i++) {
      const model = await loadModel(goldenDir('deepseek_v3'), { device: 'cpu', threads: 2 });
      const generateAll = async () => {
        for await (const { id } of model.generate(ids, { maxTokens: 20, ignoreEos: true, seed: i }))
          expect(id).toBeTypeOf('number');
      };
      const out = join(folder, `saved-${i}`);
      const calls = [
        ...Array.from({ length: 6 }, () => [model.forward([ids, ids]), model.lossAndGradients([ids], [ids])]).flat(),
        generateAll(),
        generateAll(),
        model.save(out),
      ];
      const settled = Promise.allSettled(calls);
      await new Promise((resolve) => setTimeout(resolve, i * 3));
      model.dispose();
      model.dispose();
      for (const result of await settled) {
        if (result.status === 'fulfilled') done++;
        else {
          refused++;
          expect(result.reason).toBeInstanceOf(HadalError);
          expect(result.reason).toMatchObject(disposed);
        }
      }
      // Saved whole or not at all.
      for (const name of readdirSync(folder)) expect(readdirSync(join(folder, name))).toContain('config.json');
    }
    expect(done).toBeGreaterThan(0);
    expect(refused).toBeGreaterThan(30);
  });

  it('refuses every use', async () => {
    const model = await loadModel(goldenDir('gpt2'), { device: 'cpu', threads: 2 });
    const begun = model.generate([1, 2], { maxTokens: 5, ignoreEos: true });
    await begun.next();
    model.dispose();
    const uses = [
      () => model.forward([[1]]),
      () => model.lossAndGradients([[1, 2]], [[1, 2]]),
      () => model.generate([1], {}).next(),
      () => begun.next(),
      () => model.save(join(folder, 'never')),
    ];
    for (const use of uses) await expect(use()).rejects.toMatchObject(disposed);
    expect(model.dispose()).toBeUndefined();
    expect(readdirSync(folder)).not.toContain('never');
  });
});

describe('a disposed device', () => {
  it('settles copies under way, and refuses later ones', async () => {
    const device = openDevice('cpu', { threads: 2 });
    const tensor = device.allocate([1 << 20], 'fp32');
    const copies = Array.from({ length: 20 }, () => [
      tensor.write(new Float32Array(1 << 20)),
      tensor.toFloat32(),
    ]).flat();
    const settled = Promise.allSettled(copies);
    device.dispose();
    device.dispose();
    const results = await settled;
    expect(results.at(-1)).toMatchObject({ status: 'rejected', reason: disposed });
    for (const result of results) if (result.status === 'rejected') expect(result.reason).toMatchObject(disposed);
    await expect(tensor.toFloat32()).rejects.toMatchObject(disposed);
    await expect(device.run([])).rejects.toMatchObject(disposed);
    tensor.dispose();
    tensor.dispose();
    await expect(tensor.toFloat32()).rejects.toMatchObject(disposed);
  });
});
