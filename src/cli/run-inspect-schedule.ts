// `hadal inspect --schedule`: what changes over a run, as a table and a plot, or as numbers.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { HadalError } from '../core/errors.js';
import { formatInteger } from '../core/format.js';
import type { TrainConfig } from '../train/config.js';
import { scheduledValues } from '../train/schedules.js';
import type { SizedConfig } from '../train/step-config.js';
import { printJson, printLine, tableLines } from './output.js';
import { type PresetName, presets } from './presets/presets.js';
import { trainConfigFrom } from './train-config.js';

/** @param target - a preset, a configuration file or a run directory @param set - as of `train` */
export async function inspectSchedule(target: string, { json, set }: { json: boolean; set: string[] }): Promise<void> {
  const from = Object.hasOwn(presets, target) ? { preset: target as PresetName } : { config: configPath(target) };
  // Schedules do not ask what is trained on.
  const config = withSizes(await trainConfigFrom({ ...from, set, out: '.', data: ['synthetic'] }));
  if (json)
    printJson({ steps: config.steps, values: pointsOf(config, config.steps).map((step) => valuesAt(config, step)) });
  else for (const line of scheduleLines(config)) printLine(line);
}

/** What memory decides is not known here: an update is taken to be computed row by row. */
function withSizes(config: TrainConfig): SizedConfig {
  const { batch, gradAccumulationSteps } = config;
  if (batch !== 'auto')
    return {
      ...config,
      batch,
      gradAccumulationSteps: gradAccumulationSteps === 'auto' ? batch : gradAccumulationSteps,
    };
  const expected = '[inspect] expected the rows of an update, got auto, which memory decides';
  throw new HadalError('HADAL_ERR_USAGE', `${expected}; give --set batch=32, or the directory of a run`);
}

/** Run directories say how they were made. */
const configPath = (target: string): string =>
  existsSync(target) && statSync(target).isDirectory() ? join(target, 'config.json') : target;

const valuesAt = (config: SizedConfig, step: number) => {
  const { microBatches, ...values } = scheduledValues(config, step);
  const rows = (microBatches * config.batch) / config.gradAccumulationSteps;
  return { step, rows, ...values };
};

/** Updates at equal distances, the first and the last among them, at most `count`. */
function pointsOf({ steps }: SizedConfig, count: number): number[] {
  const last = steps - 1;
  const points = Math.min(count, steps);
  return [...new Set(Array.from({ length: points }, (_, i) => Math.round((last * i) / Math.max(1, points - 1))))];
}

const tableRows = 11;
const plotColumns = 64;
const plotRows = 8;
/** Eighths of a character cell, from none to all. */
const bars = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

function scheduleLines(config: SizedConfig): string[] {
  const values = pointsOf(config, plotColumns).map((step) => scheduledValues(config, step).lr);
  const peak = Math.max(...values);
  return [
    `learning rate over ${formatInteger(config.steps)} updates, at most ${peak.toExponential(2)}`,
    ...plotLines(values.map((lr) => lr / peak)),
    '',
    ...tableLines([
      ['update', 'lr', 'rows', 'mtpWeight', 'routerBiasSpeed'],
      ...pointsOf(config, tableRows).map((at) => {
        const { step, lr, rows, mtpWeight, routerBiasSpeed } = valuesAt(config, at);
        return [
          formatInteger(step + 1),
          lr.toExponential(3),
          formatInteger(rows),
          `${mtpWeight}`,
          `${routerBiasSpeed}`,
        ];
      }),
    ]),
  ];
}

/** Columns as high as their share of 1. */
function plotLines(shares: readonly number[]): string[] {
  const eighths = shares.map((share) => Math.round(share * plotRows * 8));
  return Array.from({ length: plotRows }, (_, row) => {
    const below = (plotRows - 1 - row) * 8;
    return eighths
      .map((height) => bars[Math.min(8, Math.max(0, height - below))])
      .join('')
      .trimEnd();
  });
}
