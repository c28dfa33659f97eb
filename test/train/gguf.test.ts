// Training goes on from a GGUF file: its weights, its tokenizer; the small twin of `npm run accept -- stories`.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../src/generate/loaded-model.js';
import { checkpointsOf, eventsOf, RunFolder, runAll } from './runs.js';

const folder = new RunFolder();
afterAll(() => folder.remove());
const stories = fileURLToPath(new URL('../../../shared/data/stories260K.gguf', import.meta.url));

describe.skipIf(!existsSync(stories))('stories260K (skipped without shared data)', () => {
  it('learns another kind of text, resumes, and is saved with its tokenizer', async () => {
    const options = folder.options({ model: { directory: stories }, steps: 12 });
    const events = await runAll(options);
    const { evalLoss, initialEvalLoss } = eventsOf(events, 'end')[0] ?? {};
    expect(evalLoss).toBeLessThan((initialEvalLoss as number) - 0.5);

    const more = await runAll({ ...options, steps: 14, resume: true });
    expect(eventsOf(more, 'step').map(({ step }) => step)).toEqual([13, 14]);

    const checkpoint = join(options.out, 'checkpoints', checkpointsOf(options.out).at(-1) as string);
    using before = await loadModel(stories, { device: 'cpu', threads: 1 });
    using after = await loadModel(checkpoint, { device: 'cpu', threads: 1 });
    expect(after.tokenizer?.files).toEqual(before.tokenizer?.files);
    expect(after.model.toHuggingFace()).toEqual(before.model.toHuggingFace());
  });
});
