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
  safetensorsDTypes,
  type TensorEntry,
  type TensorFiles,
} from '../formats/safetensors.js';
import type { TensorToWrite } from '../formats/safetensors-writer.js';
import type { ElementRange } from '../formats/tensor-pieces.js';
import { modelFromConfig } from '../models/families.js';
import { configText } from '../models/hugging-face-config.js';
import { type Model, parametersOf } from '../models/model.js';
import type { FactoredWeight, Parameter, ParameterPart } from '../nn/parameters.js';
import type { Tensor } from '../runtime/tensor.js';
import type { ModelSource, SourceTensors } from './model-source.js';
import { type Matrix, productOf } from './products.js';

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
      const files = await openTensorDirectory(dir);
      return new DirectoryTensors(files, await openFactors(dir, files), block);
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

/** Factors of weights lie in files of their own: for everybody else the directory holds the products. */
const factorFiles = { name: 'factors' };

async function openFactors(dir: string, files: TensorFiles): Promise<TensorFiles | null> {
  const names = [`${factorFiles.name}.safetensors`, `${factorFiles.name}.safetensors.index.json`];
  if (!names.some((name) => existsSync(join(dir, name)))) return null;
  try {
    return await openTensorDirectory(dir, factorFiles);
  } catch (error) {
    await files.close();
    throw error;
  }
}

class DirectoryTensors implements SourceTensors {
  readonly shapes: ReadonlyMap<string, Shape>;
  readonly factors: ReadonlyMap<string, Shape>;

  constructor(
    private readonly files: TensorFiles,
    private readonly factorFiles: TensorFiles | null,
    private readonly block: number,
  ) {
    this.factors = new Map([...(factorFiles?.tensors ?? [])].map(([name, { shape }]) => [name, shape]));
    const isScale = (name: string) =>
      name.endsWith('_scale_inv') && files.tensors.get(name.slice(0, -'_scale_inv'.length))?.dtype === 'F8_E4M3';
    this.shapes = new Map(
      [...files.tensors].filter(([name]) => !isScale(name)).map(([name, { shape }]) => [name, shape]),
    );
  }

  async read(name: string, format: SafetensorsDType, range?: ElementRange): Promise<Uint8Array> {
    const files = this.factorFiles?.tensors.has(name) ? this.factorFiles : this.files;
    const stored = files.tensors.get(name)?.dtype;
    const width = safetensorsDTypes[format];
    const bytes = range && { first: range.first * width, bytes: range.count * width };
    if (stored === format) return bytes ? files.readRange(name, bytes) : files.read(name);
    const whole = fromFloat32(format, await readFloats(files, name, this.block));
    return bytes ? whole.subarray(bytes.first, bytes.first + bytes.bytes) : whole;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.files.close();
    await this.factorFiles?.close();
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
  const contents = modelContents(model, tensors, { ...options, read: readPart });
  await withAtomicDirectory(dir, (temporary) => writeContents(temporary, contents, { maxShardBytes }));
}

/** A tensor as the directory shows it; its numbers may lie elsewhere, in pieces. */
export type StoredTensor = Pick<Tensor, 'device' | 'shape' | 'dtype'>;

/** Reads raw contents of a part of a tensor: from the device, what a snapshot holds of it, or pieces of it in files. */
export type ReadPart<T extends StoredTensor = Tensor> = (
  tensor: T,
  part: Omit<ParameterPart, 'name'>,
) => Promise<Uint8Array>;

/** What a directory holds that `transformers` opens. @param tensors - as of {@link saveModelDirectory} */
export function modelContents<T extends StoredTensor>(
  model: Model,
  tensors: ReadonlyMap<string, T>,
  { tokenizer = null, generation = null, read }: ModelFilesOptions & { read: ReadPart<T> },
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
  const { model: whole, factors } = tensorsToWrite(parameters, tensors, read);
  return { texts, tensors: { model: whole, ...(factors.length > 0 && { factors }) } };
}

/** What the directory holds of the parameters: tensors under the names of Hugging Face, and factors of weights. */
function tensorsToWrite<T extends StoredTensor>(
  parameters: readonly Parameter[],
  tensors: ReadonlyMap<string, T>,
  read: ReadPart<T>,
): { model: TensorToWrite[]; factors: TensorToWrite[] } {
  const model: TensorToWrite[] = [];
  const factors: TensorToWrite[] = [];
  /** Rows that have found their tensor, by its name, in order. */
  const rows = new Map<string, { tensor: T; part: ParameterPart }[]>();
  for (const parameter of parameters) {
    const tensor = tensorOf(tensors, parameter);
    const dtype = formatOf(tensor);
    const { factorOf } = parameter;
    for (const part of [...parameter.parts, ...parameter.copies]) {
      if (part.rows) rows.set(part.name, [...(rows.get(part.name) ?? []), { tensor, part }]);
      else (factorOf ? factors : model).push({ ...part, dtype, data: () => read(tensor, part) });
    }
    if (factorOf?.left !== parameter.name) continue;
    for (const part of [...factorOf.parts, ...factorOf.copies])
      model.push({ ...part, dtype, data: () => readProduct(factorOf, tensors, part, read) });
  }
  for (const [name, pieces] of rows) {
    pieces.sort((a, b) => (a.part.rows?.first ?? 0) - (b.part.rows?.first ?? 0));
    const [{ tensor, part }] = pieces as [{ tensor: T; part: ParameterPart }];
    const data = async () => Buffer.concat(await Promise.all(pieces.map(({ tensor, part }) => read(tensor, part))));
    model.push({ name, dtype: formatOf(tensor), shape: wholeShape(part), data });
  }
  return { model, factors };
}

/** Shape of the tensor on disk that a part is, or has rows of. */
const wholeShape = ({ shape, rows }: ParameterPart): Shape => (rows ? [rows.of, ...shape.slice(1)] : shape);

/** Raw contents of a part of a weight that is stored as a product. */
async function readProduct<T extends StoredTensor>(
  { left, right, rank, shape }: FactoredWeight,
  tensors: ReadonlyMap<string, T>,
  part: ParameterPart,
  read: ReadPart<T>,
): Promise<Uint8Array> {
  const [height, columns] = shape.slice(-2) as [number, number];
  const rows = sizeOf(part.shape) / columns;
  const first = part.offset / columns;
  const factor = async (name: string, size: Shape, offset: number): Promise<Matrix> => {
    const tensor = tensors.get(name) as T;
    return { data: toFloat32(formatOf(tensor), await read(tensor, { shape: size, offset })), shape: size };
  };
  const a = await factor(left, [rows, rank], first * rank);
  const b = await factor(right, [rank, columns], Math.floor(first / height) * rank * columns);
  const stored = tensors.get(left) as T;
  return fromFloat32(formatOf(stored), (await productOf(stored.device, a, b)).data);
}

/** How a tensor's numbers are written in a file. @throws HadalError HADAL_ERR_DTYPE */
export function formatOf({ dtype }: Pick<Tensor, 'dtype'>): SafetensorsDType {
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
export function tensorOf<T extends StoredTensor>(tensors: ReadonlyMap<string, T>, { name, shape }: Parameter): T {
  const tensor = tensors.get(name);
  if (tensor && sameShape(tensor.shape, shape)) return tensor;
  const got = tensor ? formatShape(tensor.shape) : 'none';
  throw new HadalError(
    'HADAL_ERR_SHAPE',
    `[model] expected a tensor '${name}' of shape ${formatShape(shape)}, got ${got}`,
  );
}
