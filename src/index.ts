// The public face: everything else is internal. What takes time to load is loaded when it is first called, so that
// `import 'hadal'` costs next to nothing.
import type { PrepareHooks, PrepareOptions, PrepareSummary } from './data/prepare-directory.js';
import type { LoadedModel } from './generate/loaded-model.js';
import type { SessionOptions } from './session/session.js';
import type { TrainEvent } from './train/events.js';
import type { Inspection, InspectOptions } from './train/inspect.js';
import type { TrainOptions } from './train/options.js';

export type { ConfigFile } from './cli/config-options.js';
export { defineConfig } from './cli/define-config.js';
export type { Preset } from './cli/presets/preset.js';
export { type PresetName, presets } from './cli/presets/presets.js';
export type { DType } from './core/dtype.js';
export { type ErrorCode, errorCodes, HadalError } from './core/errors.js';
export type { Shape } from './core/shape.js';
export type { PartSummary, PrepareHooks, PrepareOptions, PrepareSummary } from './data/prepare-directory.js';
export type { DecodeStream, Tokenizer } from './data/tokenizer.js';
export type { CacheForm } from './generate/cached-programs.js';
export type { ChatOptions, TemplateOptions } from './generate/chat.js';
export type { ChatMessage } from './generate/chat-template.js';
export type {
  BatchPiece,
  BatchSummary,
  GeneratedText,
  GenerateOptions,
  GenerationSummary,
  GenerationTimes,
  PromptSummary,
} from './generate/generate.js';
export type { LoadedModel } from './generate/loaded-model.js';
export type { FinishReason, Piece } from './generate/row.js';
export type { Choice, SamplingOptions } from './generate/sampling.js';
export type { ModelCounts, ModelGroup, ModelTotals } from './models/inspect.js';
export type { PrecisionDType } from './passes/narrow.js';
export type { Device } from './runtime/device.js';
export type { Tensor } from './runtime/tensor.js';
export type { Floats, SessionOptions } from './session/session.js';
export type { TrainConfig } from './train/config.js';
export type {
  CheckpointEvent,
  EndEvent,
  EvaluationEvent,
  MemoryKind,
  MemoryTable,
  PrepareEvent,
  RollbackEvent,
  RoundEvent,
  StartEvent,
  StepEvent,
  TrainEvent,
  WarningEvent,
  WorldMetrics,
} from './train/events.js';
export type { Inspection, InspectOptions, TrainingMemory } from './train/inspect.js';
export type { TrainOptions } from './train/options.js';
export type { Finding } from './train/rules.js';

/**
 * Trains a model: prepares data, runs updates, evaluates, writes checkpoints.
 *
 * Leaving the loop stops after the current update. Aborting saves a checkpoint first.
 *
 * @param options - see {@link TrainOptions}; defaults may be left out
 * @returns typed events; the last one is an {@link EndEvent}
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_DATA, HADAL_ERR_CHECKPOINT, HADAL_ERR_LOCKED, HADAL_ERR_IO,
 * HADAL_ERR_MEMORY, HADAL_ERR_RUN, HADAL_ERR_NUMERICS, and HADAL_ERR_ABORTED after the checkpoint of an aborted run
 */
export async function* train(
  options: TrainOptions,
  { signal }: { signal?: AbortSignal } = {},
): AsyncGenerator<TrainEvent, void> {
  const module = await import('./train/train.js');
  yield* module.train(options, signal ? { signal } : {});
}

/**
 * Tokenizes texts in worker threads into token shards that training takes again and again: give `out` to `train` as the
 * only source. A call that was interrupted, even killed, is gone on with by the next one of the same options; the
 * result is the same, byte for byte.
 *
 * @param options - see {@link PrepareOptions}; defaults may be left out
 * @throws HadalError HADAL_ERR_CONFIG for options that cannot be, or where `out` holds anything else; HADAL_ERR_DATA for
 * text that cannot be read; HADAL_ERR_FORMAT for a tokenizer that is none; HADAL_ERR_IO; HADAL_ERR_LOCKED while another
 * process prepares `out`; HADAL_ERR_ABORTED
 */
export async function prepare(options: PrepareOptions, hooks: PrepareHooks = {}): Promise<PrepareSummary> {
  const module = await import('./data/prepare-directory.js');
  return module.prepare(options, hooks);
}

/**
 * Opens a model; dispose of it with `using` or `dispose()`.
 *
 * @param path - a checkpoint, another directory with config.json, safetensors and, where there is one, a tokenizer, or a
 *   `.gguf` file
 * @throws HadalError HADAL_ERR_CONFIG, HADAL_ERR_CHECKPOINT, HADAL_ERR_FORMAT, HADAL_ERR_IO, HADAL_ERR_DEVICE, HADAL_ERR_DTYPE
 */
export async function loadModel(path: string, options: SessionOptions = {}): Promise<LoadedModel> {
  const module = await import('./generate/loaded-model.js');
  return module.loadModel(path, options);
}

/**
 * Counts parameters, work and memory of a model without allocating it, so that the largest can be looked at.
 *
 * @param model - the contents of a Hugging Face config.json, or the path of one or of a model directory
 * @throws HadalError HADAL_ERR_CONFIG for a config that cannot be, HADAL_ERR_IO
 */
export async function inspect(
  model: Record<string, unknown> | string,
  options: InspectOptions = {},
): Promise<Inspection> {
  const module = await import('./train/inspect.js');
  return module.inspect(model, options);
}
