// The configuration that a GGUF file's metadata and tensors tell, as a Hugging Face config.json has it.
import { HadalError } from '../core/errors.js';
import { shown } from '../core/expectation.js';
import type { GgufFile } from '../formats/gguf.js';
import { inverseFrequencies, type Llama3Scaling } from '../nn/rope-scaling.js';

/** Architectures that are read, and their `model_type`. llama.cpp calls Mistral llama too; without a window it is. */
const architectures = ['llama', 'qwen2'];

/** Metadata of the architecture that are read or say nothing about the computation; others could change it. */
const knownKeys = new Set(
  `context_length embedding_length block_count feed_forward_length vocab_size rope.dimension_count rope.freq_base
   rope.scaling.type rope.scaling.factor rope.scaling.original_context_length rope.scaling.finetuned
   rope.scaling.attn_factor rope.scaling.yarn_ext_factor rope.scaling.yarn_attn_factor rope.scaling.yarn_beta_fast
   rope.scaling.yarn_beta_slow rope.scaling.yarn_log_multiplier attention.sliding_window attention.head_count attention.head_count_kv attention.key_length attention.value_length
   attention.layer_norm_rms_epsilon expert_count expert_used_count tensor_data_layout`.split(/\s+/),
);

/** Frequencies divided by what a model turns with: a tensor beside Llama 3.1's weights and its successors'. */
export const ropeFactorsName = 'rope_freqs.weight';

/**
 * The config.json of the model in a file.
 *
 * @throws HadalError HADAL_ERR_CONFIG for an architecture or a setting that is not read; HADAL_ERR_FORMAT for a value of
 *   the wrong type or a file without tensors
 */
export async function configOfGguf(file: GgufFile): Promise<Record<string, unknown>> {
  const { metadata, tensors, path } = file;
  const architecture = metadata.text('general.architecture');
  if (architecture === undefined || !architectures.includes(architecture))
    throw configError(path, 'general.architecture', architectures.join(' or '), architecture);
  for (const key of metadata.values.keys()) {
    if (key.startsWith(`${architecture}.`) && !knownKeys.has(key.slice(architecture.length + 1)))
      throw new HadalError('HADAL_ERR_CONFIG', `[${path}] metadata '${key}' is unknown; a model with it is not read`);
  }
  const integer = (key: string) => metadata.integer(`${architecture}.${key}`);
  const required = (key: string) => {
    const value = integer(key);
    if (value === undefined) throw configError(path, `${architecture}.${key}`, 'a whole number', undefined);
    return value;
  };
  const requireEqual = (key: string, expected: number) => {
    const value = integer(key) ?? expected;
    if (value !== expected) throw configError(path, `${architecture}.${key}`, `${expected}`, value);
  };

  const [hiddenSize, heads, layers] = [
    required('embedding_length'),
    required('attention.head_count'),
    required('block_count'),
  ];
  const headDim = integer('attention.key_length') ?? hiddenSize / heads;
  // Numbers gone wrong are told before a model of such sizes is made.
  const sizeIn = (name: string, dim: number) => tensors.get(name)?.shape[dim] ?? 0;
  requireEqual('embedding_length', sizeIn('token_embd.weight', 1));
  if (heads * headDim !== sizeIn('blk.0.attn_q.weight', 0))
    throw configError(path, `${architecture}.attention.head_count`, `heads of ${headDim}, as in its tensors`, heads);
  const blocks = new Set([...tensors.keys()].map((name) => /^blk\.(\d+)\./.exec(name)?.[1]).filter(Boolean)).size;
  requireEqual('block_count', blocks);
  requireEqual('attention.value_length', headDim);
  requireEqual('rope.dimension_count', headDim);
  requireEqual('expert_count', 0);
  const context = required('context_length');
  const window = integer('attention.sliding_window') ?? 0; // 0 for none
  if (window > 0 && window < context)
    throw configError(
      path,
      `${architecture}.attention.sliding_window`,
      `0 or at least ${context}, its context`,
      window,
    );
  const vocabSize = tensors.get('token_embd.weight')?.shape[0];
  const token = (name: string) => {
    const id = metadata.integer(`tokenizer.ggml.${name}_token_id`);
    return id !== undefined && id < (vocabSize ?? 0) ? id : null; // 2³²−1 is written for none
  };
  const epsilon = metadata.number(`${architecture}.attention.layer_norm_rms_epsilon`);
  const ropeTheta = shortest(metadata.number(`${architecture}.rope.freq_base`) ?? 10000);
  const scaling = scalingOf(file, architecture);
  const llama3 = await llama3Scaling(file, headDim, ropeTheta);
  if (scaling && llama3)
    throw configError(path, `${architecture}.rope.scaling.type`, "'none' beside a table", scaling.rope_type);
  return {
    model_type: architecture,
    vocab_size: vocabSize,
    hidden_size: hiddenSize,
    intermediate_size: required('feed_forward_length'),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: integer('attention.head_count_kv') ?? heads,
    head_dim: headDim,
    ...(epsilon === undefined ? {} : { rms_norm_eps: shortest(epsilon) }),
    rope_theta: ropeTheta,
    rope_scaling: llama3 ?? scaling,
    max_position_embeddings: context,
    tie_word_embeddings: !tensors.has('output.weight'),
    ...(architecture === 'llama'
      ? { attention_bias: tensors.has('blk.0.attn_q.bias'), mlp_bias: tensors.has('blk.0.ffn_up.bias') }
      : {}),
    bos_token_id: token('bos'),
    eos_token_id: token('eos'),
  };
}

/** The shortest decimal that is the same fp32: 0.00001 was written, 0.000009999999747378752 is what comes back. */
function shortest(value: number): number {
  for (let digits = 1; digits <= 8; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === Math.fround(value)) return rounded;
  }
  return value;
}

function scalingOf({ metadata, path }: GgufFile, architecture: string): Record<string, unknown> | null {
  const key = (name: string) => `${architecture}.rope.scaling.${name}`;
  const requireNumber = (name: string, expected: number) => {
    const value = metadata.number(key(name)) ?? expected;
    if (value !== expected) throw configError(path, key(name), `${expected}`, value);
  };
  // llama.cpp multiplies its own scale of cos and sin by these; converters have disagreed on what they write.
  requireNumber('attn_factor', 1);
  requireNumber('yarn_attn_factor', 1);
  const type = metadata.text(key('type')) ?? 'none';
  if (type === 'none') return null;
  if (type !== 'linear' && type !== 'yarn') throw configError(path, key('type'), "'none', 'linear' or 'yarn'", type);
  const factor = shortest(metadata.number(key('factor')) ?? Number.NaN);
  if (type === 'linear') return { rope_type: type, factor };
  requireNumber('yarn_ext_factor', 1);
  requireNumber('yarn_log_multiplier', 0);
  const [fast, slow] = [metadata.number(key('yarn_beta_fast')), metadata.number(key('yarn_beta_slow'))];
  return {
    rope_type: type,
    factor,
    original_max_position_embeddings: metadata.integer(key('original_context_length')),
    ...(fast === undefined ? {} : { beta_fast: shortest(fast) }),
    ...(slow === undefined ? {} : { beta_slow: shortest(slow) }),
  };
}

/**
 * The scaling behind a table of factors. A file has only the factors; published models have them from settings that
 * differ in the greatest factor alone.
 */
async function llama3Scaling(
  file: GgufFile,
  headDim: number,
  ropeTheta: number,
): Promise<Record<string, unknown> | null> {
  if (!file.tensors.has(ropeFactorsName)) return null;
  const factors = await file.readFloats(ropeFactorsName);
  const scaling: Llama3Scaling = {
    type: 'llama3',
    factor: factors.reduce((most, factor) => Math.max(most, factor), 0),
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPositionEmbeddings: 8192,
  };
  const isEven = headDim % 2 === 0 && factors.length === headDim / 2;
  const plain = isEven ? inverseFrequencies(headDim, ropeTheta, null) : [];
  const scaled = isEven && scaling.factor > 0 ? inverseFrequencies(headDim, ropeTheta, scaling) : [];
  const isThat = (i: number) =>
    Math.abs((plain[i] as number) / (scaled[i] as number) / (factors[i] as number) - 1) < 1e-5;
  if (scaled.length === 0 || !factors.every((_, i) => isThat(i)))
    throw configError(file.path, ropeFactorsName, "the factors of a Llama 3 (rope_type 'llama3')", 'others');
  return {
    rope_type: 'llama3',
    factor: scaling.factor,
    low_freq_factor: scaling.lowFreqFactor,
    high_freq_factor: scaling.highFreqFactor,
    original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
  };
}

function configError(path: string, key: string, expected: string, got: unknown): HadalError {
  return new HadalError('HADAL_ERR_CONFIG', `[${path}] metadata '${key}' expected ${expected}, got ${shown(got)}`);
}
