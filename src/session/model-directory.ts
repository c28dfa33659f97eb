// Models as Hugging Face directories: config.json, safetensors under the published names, tokenizer files.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type DType, dtypes } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { formatShape, sameShape, sizeOf } from '../core/shape.js';
import { withAtomicDirectory, writeFileAtomic } from '../formats/atomic-file.js';
import { dequantizeFp8Blocks, fromFloat32, toFloat32 } from '../formats/convert.js';
import { withFileErrors } from '../formats/file-error.js';
import {
  openTensorDirectory,
  type SafetensorsDType,
  type TensorEntry,
  type TensorFiles,
} from '../formats/safetensors.js';
import { type TensorToWrite, writeTensorDirectory } from '../formats/safetensors-writer.js';
import { modelFromConfig } from '../models/families.js';
import { configText } from '../models/hugging-face-config.js';
import { type Model, parametersOf } from '../models/model.js';
import type { Parameter, ParameterPart } from '../nn/parameters.js';
import type { Tensor } from '../runtime/tensor.js';

/** Number formats of parameters, as safetensors and config.json name them. */
const onDisk: Partial<Record<DType, { format: SafetensorsDType; config: string }>> = {
  fp32: { format: 'F32', config: 'float32' },
  bf16: { format: 'BF16', config: 'bfloat16' },
  fp16: { format: 'F16', config: 'float16' },
};

/** `config.json` of a directory, and the model it describes. @throws HadalError HADAL_ERR_IO, HADAL_ERR_CONFIG */
export async function readModelConfig(dir: string): Promise<Model> {
  const path = join(dir, 'config.json');
  return modelFromConfig(await readConfig(path), path);
}

async function readConfig(path: string): Promise<unknown> {
  const text = await withFileErrors(`read ${path}`, () => readFile(path));
  return parseJson(text, { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' });
}

const quantizationSchema = z.object({
  quant_method: z.literal('fp8'),
  weight_block_size: z
    .tuple([z.number().int().positive(), z.number().int().positive()])
    .refine(([rows, cols]) => rows === cols)
    .default([128, 128]),
});

/** Size of the square blocks that fp8 weights share a scale in. */
function fp8BlockOf(config: unknown, path: string): number {
  const { quantization_config: quantization } = config as { quantization_config?: unknown };
  if (quantization === undefined || quantization === null) return 128;
  const parsed = quantizationSchema.safeParse(quantization);
  if (parsed.success) return parsed.data.weight_block_size[0];
  const got = JSON.stringify(quantization).slice(0, 120);
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[${path}] field 'quantization_config' expected quant_method 'fp8' with square blocks, got ${got}`,
  );
}

/**
 * Fills a model's tensors from a directory: fp32, bf16, fp16, fp64 or fp8 blocks on disk, one file or shards, become
 * the tensors' own dtype.
 *
 * @param tensors - by the names of `parametersOf(model)`, all of them
 * @throws HadalError HADAL_ERR_CHECKPOINT naming tensors that are missing, unexpected or of another shape;
 *   HADAL_ERR_FORMAT for damaged files, HADAL_ERR_IO
 */
export async function loadParameters(dir: string, model: Model, tensors: ReadonlyMap<string, Tensor>): Promise<void> {
  const configPath = join(dir, 'config.json');
  const block = fp8BlockOf(await readConfig(configPath), configPath);
  await using files = await openTensorDirectory(dir);
  const parameters = [...parametersOf(model).values()];
  const names = namesOnDisk(files, parameters);
  checkTensors(dir, model, files, parameters, names);
  for (const parameter of parameters) {
    const tensor = tensorOf(tensors, parameter);
    const format = formatOf(tensor);
    for (const part of parameter.parts) {
      const bytes = await readAs(files, names.get(part.name) as string, format, block);
      await tensor.write(bytes, part.offset * dtypeBytes(tensor.dtype));
    }
  }
}

/** The name a directory has each tensor under: GPT-2 was also published without its `transformer.` prefix. */
function namesOnDisk(files: TensorFiles, parameters: readonly Parameter[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name } of parameters.flatMap(({ parts }) => parts)) {
    const bare = name.replace(/^transformer\./, '');
    if (files.tensors.has(name)) found.set(name, name);
    else if (files.tensors.has(bare)) found.set(name, bare);
  }
  return found;
}

/** Tensors that older checkpoints hold beside their parameters: tables and masks, and the head of a tied embedding. */
const isHarmless = (name: string, tied: boolean) =>
  /(^|\.)(rotary_emb\.inv_freq|attn\.masked_bias|attn\.bias)$/.test(name) || (tied && name === 'lm_head.weight');

function checkTensors(
  dir: string,
  model: Model,
  files: TensorFiles,
  parameters: readonly Parameter[],
  names: ReadonlyMap<string, string>,
): void {
  const refuse = (expected: string, got: string) => {
    throw new HadalError('HADAL_ERR_CHECKPOINT', `[model] expected ${expected} in ${dir}, got ${got}`);
  };
  const parts = parameters.flatMap((parameter) => parameter.parts);
  const missing = parts.filter(({ name }) => !names.has(name)).map(({ name }) => name);
  if (missing.length > 0) {
    const firstPrediction = model.layers - model.mtpDepth;
    const isPrediction = (name: string) => Number(/^model\.layers\.(\d+)\./.exec(name)?.[1]) >= firstPrediction;
    const advice = missing.every(isPrediction)
      ? '; set num_nextn_predict_layers to 0 in config.json if the directory has no MTP module'
      : '';
    refuse('every tensor that config.json calls for', `none named ${someOf(missing)}${advice}`);
  }
  for (const { name, shape } of parts) {
    const entry = files.tensors.get(names.get(name) as string) as TensorEntry;
    if (!sameShape(entry.shape, shape)) refuse(`'${name}' of shape ${formatShape(shape)}`, formatShape(entry.shape));
  }
  const used = new Set([...names.values(), ...parameters.flatMap(({ copies }) => copies)]);
  const tied = !parts.some(({ name }) => name === 'lm_head.weight');
  const isScale = (name: string) =>
    name.endsWith('_scale_inv') && files.tensors.get(name.slice(0, -'_scale_inv'.length))?.dtype === 'F8_E4M3';
  const unexpected = [...files.tensors.keys()].filter(
    (name) => !used.has(name) && !isHarmless(name, tied) && !isScale(name),
  );
  if (unexpected.length > 0) refuse('only tensors that config.json calls for', `also ${someOf(unexpected)}`);
}

function someOf(names: readonly string[]): string {
  const shown = names.slice(0, 4).map((name) => `'${name}'`);
  return names.length > 4 ? `${shown.join(', ')} and ${names.length - 4} more` : shown.join(', ');
}

/** Bytes of one tensor in another format. */
async function readAs(files: TensorFiles, name: string, format: SafetensorsDType, block: number): Promise<Uint8Array> {
  if (files.tensors.get(name)?.dtype === format) return files.read(name);
  return fromFloat32(format, await readFloats(files, name, block));
}

/**
 * Numbers of one tensor; fp8 weights are multiplied by the scales beside them.
 *
 * @param block - rows and columns that share a scale in `<name>_scale_inv`
 * @throws HadalError HADAL_ERR_FORMAT, HADAL_ERR_DTYPE, HADAL_ERR_SHAPE
 */
export async function readFloats(files: TensorFiles, name: string, block = 128): Promise<Float32Array> {
  const bytes = await files.read(name);
  const { dtype, shape } = files.tensors.get(name) as TensorEntry;
  const scales = files.tensors.get(`${name}_scale_inv`);
  if (dtype !== 'F8_E4M3' || !scales) return toFloat32(dtype, bytes);
  const [rows, cols] = [sizeOf(shape.slice(0, -1)), shape.at(-1) ?? 1];
  const scaleInv = toFloat32(scales.dtype, await files.read(`${name}_scale_inv`));
  return dequantizeFp8Blocks(bytes, scaleInv, rows, cols, block);
}

/** Files of a tokenizer, to be stored beside a model. */
export interface TokenizerFiles {
  /** tokenizer.json. */
  readonly json: string;
  /** tokenizer_config.json. */
  readonly configJson: string | undefined;
}

/** Options of {@link writeModelFiles}. */
export interface ModelFilesOptions {
  tokenizer?: TokenizerFiles | null;
  /** A file's limit, above which shards are written; 5 GB unless given. */
  maxShardBytes?: number;
}

/**
 * Writes a directory that `transformers` opens. It appears whole or not at all, and must not exist yet or be empty.
 *
 * @param tensors - by the names of `parametersOf(model)`, all of them; read one part at a time
 * @throws HadalError HADAL_ERR_IO
 */
export async function saveModelDirectory(
  dir: string,
  model: Model,
  tensors: ReadonlyMap<string, Tensor>,
  options: ModelFilesOptions = {},
): Promise<void> {
  await withAtomicDirectory(dir, (temporary) => writeModelFiles(temporary, model, tensors, options));
}

/** Like {@link saveModelDirectory}, into a directory that exists: for one that holds more than the model. */
export async function writeModelFiles(
  dir: string,
  model: Model,
  tensors: ReadonlyMap<string, Tensor>,
  { tokenizer = null, maxShardBytes }: ModelFilesOptions = {},
): Promise<void> {
  const parameters = [...parametersOf(model).values()];
  const first = tensorOf(tensors, parameters[0] as Parameter);
  const config = { ...model.toHuggingFace(), dtype: onDisk[first.dtype]?.config };
  await writeFileAtomic(join(dir, 'config.json'), configText(config));
  if (tokenizer) await writeFileAtomic(join(dir, 'tokenizer.json'), tokenizer.json);
  if (tokenizer?.configJson !== undefined) {
    await writeFileAtomic(join(dir, 'tokenizer_config.json'), tokenizer.configJson);
  }
  const files = parameters.flatMap((parameter) => toWrite(parameter, tensorOf(tensors, parameter)));
  await writeTensorDirectory(dir, files, maxShardBytes === undefined ? {} : { maxShardBytes });
}

function toWrite(parameter: Parameter, tensor: Tensor): TensorToWrite[] {
  const entry = ({ name, shape, offset }: ParameterPart) => ({
    name,
    dtype: formatOf(tensor),
    shape,
    data: () => readPart(tensor, { shape, offset }),
  });
  const copies = parameter.copies.map((name) => entry({ name, shape: parameter.shape, offset: 0 }));
  return [...parameter.parts.map(entry), ...copies];
}

/** Raw contents of a part of a tensor. */
export function readPart(tensor: Tensor, { shape, offset }: Omit<ParameterPart, 'name'>): Promise<Uint8Array> {
  const bytes = dtypeBytes(tensor.dtype);
  return tensor.read(new Uint8Array(sizeOf(shape) * bytes), offset * bytes);
}

const dtypeBytes = (dtype: DType): number => dtypes[dtype].blockBits / 8;

/** How a tensor's numbers are written in a file. @throws HadalError HADAL_ERR_DTYPE */
export function formatOf({ dtype }: Tensor): SafetensorsDType {
  const known = onDisk[dtype];
  if (known) return known.format;
  throw new HadalError(
    'HADAL_ERR_DTYPE',
    `[model] expected parameters of ${Object.keys(onDisk).join(', ')}, got ${dtype}`,
  );
}

function tensorOf(tensors: ReadonlyMap<string, Tensor>, { name, shape }: Parameter): Tensor {
  const tensor = tensors.get(name);
  if (tensor && sameShape(tensor.shape, shape)) return tensor;
  const got = tensor ? formatShape(tensor.shape) : 'none';
  throw new HadalError(
    'HADAL_ERR_SHAPE',
    `[model] expected a tensor '${name}' of shape ${formatShape(shape)}, got ${got}`,
  );
}
