// `hadal train`: a listener to the events of a run, and what is shown when it ends.
import { HadalError } from '../core/errors.js';
import { joinWorld, type World } from '../dist/world.js';
import { loadModel } from '../generate/loaded-model.js';
import type { TrainListener } from '../monitor/lines.js';
import { plainLog } from '../monitor/plain.js';
import { tensorboardListener } from '../monitor/tensorboard.js';
import { TerminalDisplay } from '../monitor/terminal.js';
import type { InstructionTime } from '../runtime/device.js';
import type { TrainConfig } from '../train/config.js';
import type { EndEvent } from '../train/events.js';
import { isSaidByAnother } from '../train/together.js';
import { threadsOf, train } from '../train/train.js';
import { exitStatusOf } from './errors.js';
import { abortOnInterrupt } from './interrupt.js';
import { invocation, quoted } from './invocation.js';
import { printJson } from './output.js';
import type { TrainFlags } from './train.js';
import { trainConfigFrom } from './train-config.js';
import { requireProfilePath, writeProfile } from './write-profile.js';

/** Trains, shows it, samples from the result; of several processes, rank 0 does. @throws HadalError what `train` throws */
export async function runTrain(flags: TrainFlags): Promise<void> {
  const json = flags.json ?? false;
  // With --json, stdout belongs to the events.
  const stream = json ? process.stderr : process.stdout;
  const write = (line: string): void => void stream.write(`${line}\n`);
  let found: string | null = null;
  const config = await trainConfigFrom(flags, (file) => {
    found = file;
  });
  await requireProfilePath(flags.profile);
  const world = await joinWorld();
  if (found !== null && (world?.rank ?? 0) === 0) write(`config ${found}`);
  const end = await runShown(config, world, { stream, json, profile: flags.profile });
  if (!end) return;
  using signal = abortOnInterrupt(() => {});
  await showSamples(config, end, { write: (text) => stream.write(text), json, signal });
  write('');
  for (const line of nextLines(config, end)) write(line);
}

/** @returns null where another process shows the end */
async function runShown(
  config: TrainConfig,
  world: World | null,
  { stream, json, profile }: { stream: NodeJS.WriteStream; json: boolean; profile: string | undefined },
): Promise<EndEvent | null> {
  let rank = world?.rank ?? 0;
  using display = stream.isTTY && rank === 0 ? new TerminalDisplay(stream) : null;
  // A second Ctrl-C ends the process at once: the cursor must come back all the same.
  process.once('exit', () => display?.[Symbol.dispose]());
  using board = tensorboardListener();
  const write = (line: string): void => void (display ? display.print([line]) : stream.write(`${line}\n`));
  const listeners: TrainListener[] = [display?.listen ?? plainLog(write), board.listen, ...(json ? [printJson] : [])];
  using signal = abortOnInterrupt(() => {
    if (rank === 0) write('stopping after this step and saving; Ctrl-C again ends at once');
  });
  const threads = threadsOf(config, world);
  const onProfile = async (times: readonly InstructionTime[]): Promise<void> => {
    if (profile !== undefined) for (const line of await writeProfile(profile, times, threads)) write(line);
  };
  let end: EndEvent | null = null;
  let saved = false;
  try {
    const isProfiled = profile !== undefined && rank === 0;
    for await (const event of train(config, { signal, world, ...(isProfiled && { onProfile }) })) {
      // Who is rank 0 may change when processes are lost.
      if (event.type === 'start') rank = event.rank;
      if (rank === 0) for (const listen of listeners) listen(event);
      else if (event.type === 'warning' && (event.finding?.metric ?? 'memory') === 'memory')
        process.stderr.write(`rank ${rank}: step ${event.step}: ${event.message}\n`);
      if (event.type === 'checkpoint') saved = true;
      if (event.type === 'end' && rank === 0) end = event;
    }
  } catch (error) {
    if (isSaidByAnother(error)) {
      process.exitCode = exitStatusOf(error);
      return null;
    }
    if (!(error instanceof HadalError) || error.code !== 'HADAL_ERR_ABORTED' || !saved) throw error;
    const message = `${error.message}\ncontinue with: ${invocation()} train --out ${quoted(config.out)} --resume`;
    throw new HadalError('HADAL_ERR_ABORTED', message, { cause: error });
  }
  return end;
}

const sampleTokens = 80;

/** Beginnings that suit what a model has read; any word will do for data we do not know. */
function promptsFor(sources: TrainConfig['data']['sources']): string[] {
  if (sources.includes('sotu')) return ['The state of the Union', 'My fellow Americans,'];
  if (sources.includes('synthetic')) return ['The cat', 'Every child'];
  return ['The'];
}

async function showSamples(
  { data, device, threads, pinThreads }: TrainConfig,
  { checkpoint }: EndEvent,
  { write, json, signal }: { write: (text: string) => void; json: boolean; signal: AbortSignal },
): Promise<void> {
  using model = await loadModel(checkpoint, { device, pinThreads, ...(threads === null ? {} : { threads }) });
  for (const prompt of promptsFor(data.sources)) {
    let text = '';
    write(`\nsample ${prompt}`);
    for await (const piece of model.generate(prompt, {
      maxTokens: sampleTokens,
      temperature: 0.8,
      topP: 0.95,
      seed: 1,
      signal,
    })) {
      text += piece.text;
      write(piece.text.replaceAll('\n', '\n       '));
    }
    write('\n');
    if (json) printJson({ type: 'sample', prompt, text });
  }
}

function nextLines({ data, out, steps }: TrainConfig, { checkpoint }: EndEvent): string[] {
  const prompt = promptsFor(data.sources)[0] as string;
  return [
    `next   ${invocation()} generate --model ${quoted(checkpoint)} --prompt ${JSON.stringify(prompt)}`,
    `       ${invocation()} train --out ${quoted(out)} --resume --steps ${2 * steps}`,
    `       ${invocation()} inspect ${quoted(checkpoint)}`,
    `       tensorboard --logdir ${quoted(out)}`,
  ];
}
