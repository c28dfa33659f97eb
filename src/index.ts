// The public face: everything else is internal.
export { defineConfig } from './cli/define-config.js';
export type { Preset } from './cli/presets/preset.js';
export { type PresetName, presets } from './cli/presets/presets.js';
export { type ErrorCode, errorCodes, HadalError } from './core/errors.js';
export type { GenerateOptions, Piece } from './generate/generate.js';
export { type LoadedModel, loadModel } from './generate/loaded-model.js';
export type { ModelCounts, ModelGroup, ModelTotals } from './models/inspect.js';
export type { Floats, SessionOptions } from './session/session.js';
export type { TrainConfig, TrainOptions } from './train/config.js';
export type {
  CheckpointEvent,
  EndEvent,
  EvaluationEvent,
  PrepareEvent,
  StartEvent,
  StepEvent,
  TrainEvent,
} from './train/events.js';
export { type Inspection, type InspectOptions, inspect, type TrainingMemory } from './train/inspect.js';
export { train } from './train/train.js';
