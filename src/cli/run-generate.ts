// `hadal generate`: texts as they come, or one after the other where there are several.
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { HadalError } from '../core/errors.js';
import { withFileErrors } from '../formats/file-error.js';
import type { BatchPiece, BatchSummary } from '../generate/generate.js';
import { loadModel } from '../generate/loaded-model.js';
import type { GenerateFlags } from './generate.js';
import { dimmed, generateOptionsFrom, speedLine } from './generation-flags.js';
import { abortOnInterrupt } from './interrupt.js';
import { printJson } from './output.js';

/** Continues the prompts and shows how fast it was. @throws HadalError what `loadModel` and `generateBatch` throw */
export async function runGenerate(flags: GenerateFlags): Promise<void> {
  const prompts = await promptsFrom(flags);
  using signal = abortOnInterrupt(() => {});
  using model = await loadModel(flags.model, flags);
  const pieces = model.generateBatch(prompts, { ...generateOptionsFrom(flags), signal });
  const show = flags.json ? printJson : inOrder(prompts);
  const summary = await shown(pieces, show);
  if (flags.json) printJson({ summary });
  else process.stderr.write(`${dimmed(speedLine(summary, summary.prompts), process.stderr)}\n`);
  if (!signal.aborted) return;
  if (!flags.json) process.stdout.write('\n');
  throw new HadalError('HADAL_ERR_ABORTED', '[generate] interrupted');
}

async function promptsFrom({ prompt = [], promptFile = [] }: GenerateFlags): Promise<string[]> {
  const read = (path: string) =>
    path === '-' ? text(process.stdin) : withFileErrors(`read ${path}`, () => readFile(path, 'utf8'));
  const prompts = [...prompt];
  for (const path of promptFile) prompts.push(await read(path));
  if (prompts.length > 0) return prompts;
  throw new HadalError('HADAL_ERR_USAGE', '[generate] expected --prompt or --prompt-file, got neither');
}

async function shown(
  pieces: AsyncGenerator<BatchPiece, BatchSummary>,
  show: (piece: BatchPiece) => void,
): Promise<BatchSummary> {
  for (;;) {
    const { value, done } = await pieces.next();
    if (done) return value;
    show(value);
  }
}

/** Writes each prompt with what follows it: the first as it comes, the next ones once those before have ended. */
function inOrder(prompts: readonly string[]): (piece: BatchPiece) => void {
  const waiting = [...prompts];
  let current = 0;
  const flush = () => {
    process.stdout.write(waiting[current] ?? '');
    waiting[current] = '';
  };
  const ended = new Set<number>();
  return ({ index, text: fresh, finishReason }) => {
    waiting[index] += fresh;
    if (finishReason) ended.add(index);
    flush();
    while (ended.has(current)) {
      process.stdout.write('\n');
      current++;
      flush();
    }
  };
}
