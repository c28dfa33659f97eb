import { cancel, intro, isCancel, select, text } from '@clack/prompts';
import { HadalError } from '../core/errors.js';
import type { InitFlags } from './init.js';
import { type PresetName, presetSummaries } from './presets/presets.js';

/**
 * Asks on the terminal for what no flag says.
 *
 * @param name - name of the runs where none is given
 * @throws HadalError HADAL_ERR_ABORTED when the questions are left
 */
export async function askInit(flags: InitFlags, name: string): Promise<InitFlags> {
  intro('hadal init');
  const data =
    flags.data ??
    (
      await answerOf(
        text({ message: 'Text to train on: files, folders or globs', placeholder: 'none yet: write a small sample' }),
      )
    )
      .split(/\s+/)
      .filter(Boolean);
  const suggested: PresetName = data.length > 0 ? 'shallow' : 'test';
  return {
    ...flags,
    ...(data.length > 0 ? { data } : {}),
    preset:
      flags.preset ??
      (await answerOf(
        select({
          message: 'Run to start from',
          initialValue: suggested,
          options: Object.entries(presetSummaries).map(([value, hint]) => ({
            value: value as PresetName,
            label: value,
            hint,
          })),
        }),
      )),
    format:
      flags.format ??
      (await answerOf(
        select({
          message: 'Configuration as',
          options: Object.entries(formatLabels).map(([value, label]) => ({ value: value as Format, label })),
        }),
      )),
    name: flags.name ?? ((await answerOf(text({ message: 'Name of the runs', placeholder: name }))) || name),
  };
}

type Format = NonNullable<InitFlags['format']>;

const formatLabels: Record<Format, string> = { ts: 'TypeScript, with types', yaml: 'YAML', json: 'JSON' };

async function answerOf<T>(question: Promise<T>): Promise<Exclude<T, symbol>> {
  const answer = await question;
  if (!isCancel(answer)) return answer as Exclude<T, symbol>;
  cancel('nothing was written');
  throw new HadalError('HADAL_ERR_ABORTED', '[init] interrupted; nothing was written');
}
