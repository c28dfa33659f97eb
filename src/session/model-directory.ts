// Models as Hugging Face directories: config.json, safetensors under the published names, tokenizer files.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type DType, dtypes } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import { formatShape, type Shape, sameShape, sizeOf } from '../core/shape.js';
import { loadTokenizer } from '../data/tokenizer.js';
import { withAtomicDirectory } from '../formats/atomic-file.js';
import { dequantizeFp8Blocks, fromFloat32, toFloat32 } from '../formats/convert.js';
import { type DirectoryContents, writeContents } from '../formats/directory-contents.js';
import { withFileErrors } from '../formats/file-error.js';
import {
  openTensorDirectory,
  type SafetensorsDType,
  type TensorEntry,
  type TensorFiles,
} from '../formats/safetensors.js';
import type { TensorToWrite } from '../formats/safetensors-writer.js';
import { modelFromConfig } from '../models/families.js';
import { configText } from '../models/hugging-face-config.js';
import { type Model, parametersOf } from '../models/model.js';
import type { Parameter, ParameterPart } from '../nn/parameters.js';
import type { Tensor } from '../runtime/tensor.js';
import type { ModelSource, SourceTensors } from './model-source.js';

/** Number formats of parameters, as safetensors and config.json name them. */
const onDisk: Partial<Record<DType, { format: SafetensorsDType; config: string }>> = {
  fp32: { format: 'F32', config: 'float32' },
  bf16: { format: 'BF16', config: 'bfloat16' },
  fp16: { format: 'F16', config: 'float16' },
};

/**
 * A directory with config.json, safetensors and, where there are any, tokenizer files.
 *
 * @throws HadalError HADAL_ERR_IO, HADAL_ERR_CONFIG
 */
export async function directorySource(dir: string): Promise<ModelSource> {
  const path = join(dir, 'config.json');
  const text = await withFileErrors(`read ${path}`, () => readFile(path));
  const config = parseJson(text, { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' });
  return {
    path: dir,
    model: modelFromConfig(config, path),
    generation: await readGeneration(join(dir, 'generation_config.json')),
    tokenizer: async () => (existsSync(join(dir, 'tokenizer.json')) ? loadTokenizer(dir) : null),
    openTensors: async () => {
      const block = fp8BlockOf(config, path);
      return new DirectoryTensors(await openTensorDirectory(dir), block);
    },
  };
}

const tokenId = z.number().int().nonnegative();
const generationSchema = z.looseObject({ eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish() });

/** generation_config.json: of its fields only the end tokens are used, the others are kept. */
export type GenerationConfig = Readonly<z.output<typeof generationSchema>>;

async function readGeneration(path: string): Promise<GenerationConfig | null> {
  if (!existsSync(path)) return null;
  const text = await withFileErrors(`read ${path}`, () => readFile(path));
  const parsed = generationSchema.safeParse(parseJson(text, { part: 'config', what: path, code: 'HADAL_ERR_CONFIG' }));
  if (parsed.success) return parsed.data;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[${path}] expected an object whose 'eos_token_id' is a token id or a list of them, got another`,
  );
}

class DirectoryTensors implements SourceTensors {
  readonly shapes: ReadonlyMap<string, Shape>;

  constructor(
    private readonly files: TensorFiles,
    private readonly block: number,
  ) {
    const isScale = (name: string) =>
      name.endsWith('_scale_inv') && files.tensors.get(name.slice(0, -'_scale_inv'.length))?.dtype === 'F8_E4M3';
    this.shapes = new Map(
      [...files.tensors].filter(([name]) => !isScale(name)).map(([name, { shape }]) => [name, shape]),
    );
  }

  async read(name: string, format: SafetensorsDType): Promise<Uint8Array> {
    if (this.files.tensors.get(name)?.dtype === format) return this.files.read(name);
    return fromFloat32(format, await readFloats(this.files, name, this.block));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.files.close();
  }
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

/** Options of {@link saveModelDirectory}. */
export interface ModelFilesOptions {
  tokenizer?: TokenizerFiles | null;
  generation?: GenerationConfig | null;
}

/**
 * Writes a directory that `transformers` opens. It appears whole or not at all, and must not exist yet or be empty.
 *
 * @param tensors - by the names of `parametersOf(model)`, all of them; read one part at a time
 * @param options.maxShardBytes - a file's limit, above which shards are written; 5 GB unless given
 * @throws HadalError HADAL_ERR_IO
 */
export async function saveModelDirectory(
  dir: string,
  model: Model,
  tensors: ReadonlyMap<string, Tensor>,
  { maxShardBytes, ...options }: ModelFilesOptions & { maxShardBytes?: number } = {},
): Promise<void> {
  const contents = modelContents(model, tensors, options);
  await withAtomicDirectory(dir, (temporary) => writeContents(temporary, contents, { maxShardBytes }));
}

/** How the numbers of a part of a tensor are had when they are to be written. */
export type DataOf = (tensor: Tensor, part: Omit<ParameterPart, 'name'>) => TensorToWrite['data'];

/** Read when their turn comes. */
export const dataOnDevice: DataOf = (tensor, part) => () => readPart(tensor, part);

/** What a directory holds that `transformers` opens. @param tensors - as of {@link saveModelDirectory} */
export function modelContents(
  model: Model,
  tensors: ReadonlyMap<string, Tensor>,
  { tokenizer = null, generation = null, dataOf = dataOnDevice }: ModelFilesOptions & { dataOf?: DataOf } = {},
): DirectoryContents {
  const parameters = [...parametersOf(model).values()];
  const first = tensorOf(tensors, parameters[0] as Parameter);
  const config = { ...model.toHuggingFace(), dtype: onDisk[first.dtype]?.config };
  const texts = {
    'config.json': configText(config),
    ...(generation && { 'generation_config.json': configText(generation) }),
    ...(tokenizer && { 'tokenizer.json': tokenizer.json }),
    ...(tokenizer?.configJson !== undefined && { 'tokenizer_config.json': tokenizer.configJson }),
  };
  const toModel = parameters.flatMap((parameter) => toWrite(parameter, tensorOf(tensors, parameter), dataOf));
  return { texts, tensors: { model: toModel } };
}

function toWrite(parameter: Parameter, tensor: Tensor, dataOf: DataOf): TensorToWrite[] {
  const entry = ({ name, shape, offset }: ParameterPart) => ({
    name,
    dtype: formatOf(tensor),
    shape,
    data: dataOf(tensor, { shape, offset }),
  });
  const copies = parameter.copies.map((name) => entry({ name, shape: parameter.shape, offset: 0 }));
  return [...parameter.parts.map(entry), ...copies];
}

/** How a tensor's numbers are written in a file. @throws HadalError HADAL_ERR_DTYPE */
export function formatOf({ dtype }: Tensor): SafetensorsDType {
  const known = onDisk[dtype];
  if (known) return known.format;
  throw new HadalError(
    'HADAL_ERR_DTYPE',
    `[model] expected parameters of ${Object.keys(onDisk).join(', ')}, got ${dtype}`,
  );
}

/** Raw contents of a part of a tensor. */
export function readPart(tensor: Tensor, { shape, offset }: Omit<ParameterPart, 'name'>): Promise<Uint8Array> {
  const bytes = dtypes[tensor.dtype].blockBits / 8;
  return tensor.read(new Uint8Array(sizeOf(shape) * bytes), offset * bytes);
}

/** The tensor of a parameter. @throws HadalError HADAL_ERR_SHAPE */
export function tensorOf(tensors: ReadonlyMap<string, Tensor>, { name, shape }: Parameter): Tensor {
  const tensor = tensors.get(name);
  if (tensor && sameShape(tensor.shape, shape)) return tensor;
  const got = tensor ? formatShape(tensor.shape) : 'none';
  throw new HadalError(
    'HADAL_ERR_SHAPE',
    `[model] expected a tensor '${name}' of shape ${formatShape(shape)}, got ${got}`,
  );
}
