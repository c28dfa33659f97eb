// What worker threads do: the same short training, or greedy text of a checkpoint.
import { loadModel, presets, train } from 'hadal';

/** Losses of five steps. */
export async function losses(out: string): Promise<number[]> {
  const found: number[] = [];
  for await (const event of train({ ...presets.test(), out, steps: 5, threads: 1 })) {
    if (event.type === 'step') found.push(event.loss);
  }
  return found;
}

/** The likeliest continuation. */
export async function continuation({ checkpoint, prompt }: { checkpoint: string; prompt: string }): Promise<string> {
  using model = await loadModel(checkpoint, { threads: 1 });
  let text = '';
  for await (const piece of model.generate(prompt, { maxTokens: 20, temperature: 0 })) text += piece.text;
  return text;
}
