import type { Command } from 'commander';
import type { PrecisionDType } from '../passes/narrow.js';
import { type GpuName, gpus } from '../runtime/gpus.js';
import type { Inspection } from '../train/inspect.js';
import type { TrainOptions } from '../train/options.js';
import { type CommonFlags, collect, described, oneOf, wholeNumber } from './output.js';
import { presets } from './presets/presets.js';

interface InspectFlags extends CommonFlags {
  batch?: number;
  seq?: number;
  threads?: number;
  dtype?: 'auto' | PrecisionDType;
  worldSize?: number;
  zero?: '0' | '1' | '2' | '3';
  plan: boolean;
  device?: GpuName;
  microBatches?: number;
  schedule?: boolean;
  set?: string[];
}

/** `hadal inspect`. */
export function registerInspect(program: Command): void {
  described(program.command('inspect'), 'Count the parameters, work and memory of a model, without allocating it.', [
    'inspect deepseek-v3',
    'inspect runs/shallow-1/checkpoints/step-00000400 --batch 8 --seq 256',
    'inspect config.json --json',
    'inspect config.json --world-size 4 --zero 3',
    'inspect deepseek-v2-lite --device h100 --batch 8 --micro-batches 16',
    'inspect deepseek-v3 --schedule',
    'inspect run.yaml --schedule --set optimizer.schedule.shape=warmup-stable-decay',
  ])
    .argument('<model>', `a preset (${Object.keys(presets).join(', ')}), a config.json, or a model directory`)
    .option(
      '--batch <n>',
      "rows a micro-batch that memory is planned for (default: 1, or the preset's)",
      wholeNumber(1),
    )
    .option('--seq <n>', "tokens a row (default: 4096, or the preset's)", wholeNumber(1))
    .option('--threads <n>', 'threads that workspaces are planned for', wholeNumber(1))
    .option(
      '--dtype <name>',
      'number format that memory is planned for: auto, fp32, bf16, fp16 or fp8',
      oneOf(['auto', 'fp32', 'bf16', 'fp16', 'fp8']),
    )
    .option('--world-size <n>', 'processes that train together, for the memory of each (default: 1)', wholeNumber(1))
    .option('--zero <stage>', 'ZeRO stage of these processes (default: 0)', oneOf(['0', '1', '2', '3']))
    .option(
      '--device <name>',
      `what a step would take on this GPU instead, op by op, predicted on paper: ${Object.keys(gpus).join(', ')}`,
      oneOf(Object.keys(gpus) as GpuName[]),
    )
    .option('--micro-batches <n>', 'with --device: micro-batches an update (default: 1)', wholeNumber(1))
    .option(
      '--schedule',
      'what changes over a run instead; <model> is a preset, a run’s configuration or its directory',
    )
    .option('--set <path=value>', 'with --schedule: set one field of the configuration; may be repeated', collect)
    .option('--no-plan', 'only count: the plan of a large model takes a while')
    .action(inspectModel);
}

async function inspectModel(target: string, flags: InspectFlags): Promise<void> {
  const { batch, seq, threads, dtype, worldSize, zero, plan, json = false, schedule = false, set = [] } = flags;
  const { device, microBatches } = flags;
  if (schedule) {
    const { inspectSchedule } = await import('./run-inspect-schedule.js');
    return inspectSchedule(target, { json, set });
  }
  const [{ inspect }, { printJson, printLine }] = await Promise.all([
    import('../train/inspect.js'),
    import('./output.js'),
  ]);
  const preset = Object.hasOwn(presets, target) ? presets[target as keyof typeof presets]() : null;
  const model = preset && 'config' in preset.model ? preset.model.config : await checkedPath(target);
  const seqLen = seq ?? preset?.seqLen;
  const rows = batch ?? (preset ? microRows(preset) : 1);
  if (device) {
    const { inspectRoofline } = await import('./run-inspect-roofline.js');
    return inspectRoofline(model, {
      gpu: device,
      batch: rows,
      json,
      ...(seqLen === undefined ? {} : { seqLen }),
      ...(microBatches === undefined ? {} : { microBatches }),
      ...(dtype === undefined || dtype === 'auto' ? {} : { dtype }),
      plan: plan ? undefined : false,
    });
  }
  const found = await inspect(model, {
    batch: rows,
    ...(plan ? {} : { plan }),
    ...(seqLen === undefined ? {} : { seqLen }),
    ...(threads === undefined ? {} : { threads }),
    ...(dtype === undefined ? {} : { dtype }),
    ...(worldSize === undefined ? {} : { worldSize }),
    ...(zero === undefined ? {} : { zero: Number(zero) }),
  });
  if (plan && !found.memory) {
    process.stderr.write('hadal: memory is not planned, since no native binary loads here; hadal doctor says why\n');
  }
  if (json) printJson(found);
  else for (const line of await inspectionLines(found)) printLine(line);
}

/** Rows of a preset's micro-batch; 1 where it leaves them to the machine. */
function microRows({ batch, gradAccumulationSteps = 1 }: Omit<TrainOptions, 'out'>): number {
  return batch === 'auto' || gradAccumulationSteps === 'auto' ? 1 : batch / gradAccumulationSteps;
}

/** @throws HadalError HADAL_ERR_USAGE for what is neither a file nor nearly one */
async function checkedPath(target: string): Promise<string> {
  const [{ existsSync }, { HadalError }, { nearest }] = await Promise.all([
    import('node:fs'),
    import('../core/errors.js'),
    import('../core/nearest.js'),
  ]);
  if (existsSync(target)) return target;
  const hint = nearest(target, Object.keys(presets));
  throw new HadalError(
    'HADAL_ERR_USAGE',
    `[inspect] expected a preset, a config.json or a model directory, got '${target}'; ${hint ? `did you mean '${hint}'?` : `presets are ${Object.keys(presets).join(', ')}`}`,
  );
}

async function inspectionLines(found: Inspection): Promise<string[]> {
  const [{ formatFlops, formatInteger }, { tableLines }, { memoryLines }] = await Promise.all([
    import('../core/format.js'),
    import('./output.js'),
    import('../monitor/memory-lines.js'),
  ]);
  const { family, layers, vocabSize, maxPositions, seqLen, model, withMtp, groups, memory } = found;
  const variants = withMtp
    ? ([
        ['without multi-token prediction', model],
        ['with multi-token prediction', withMtp],
      ] as const)
    : ([['', model]] as const);
  return [
    `${family}: ${layers} layers, vocabulary ${formatInteger(vocabSize)}, up to ${formatInteger(maxPositions)} positions`,
    '',
    ...tableLines([
      ['', 'parameters', 'active a token', `FLOPs a token (training, rows of ${formatInteger(seqLen)})`],
      ...variants.map(([name, total]) => [
        name,
        formatInteger(total.parameters),
        formatInteger(total.activeParameters),
        formatFlops(total.flopsPerToken),
      ]),
    ]),
    '',
    ...tableLines([
      ['part', 'tensors', 'parameters', 'active a token'],
      ...groups.map((group) => [
        group.name,
        formatInteger(group.tensors),
        formatInteger(group.parameters),
        formatInteger(group.activeParameters),
      ]),
    ]),
    ...(memory
      ? [
          '',
          `memory to train, ${memory.dtype}, micro-batch ${memory.batch} × ${formatInteger(memory.seqLen)}${memory.worldSize > 1 ? `, each of ${memory.worldSize} processes, ZeRO stage ${memory.zero}` : ''}`,
          ...memoryLines(memory),
        ]
      : []),
  ];
}
