// GGUF files of the golden model directories, as llama.cpp's converter makes them.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fromFloat32 } from '../../src/formats/convert.js';
import { type Entry, entry, type TensorInfo } from '../formats/write-gguf.js';
import { goldenDir } from '../goldens/golden.js';
import { type StoredTensor, storedTensors } from './model-copies.js';

const modules: [string, string][] = [
  ['model.embed_tokens', 'token_embd'],
  ['model.norm', 'output_norm'],
  ['lm_head', 'output'],
  ['model.layers', 'blk'],
  ['self_attn.q_proj', 'attn_q'],
  ['self_attn.k_proj', 'attn_k'],
  ['self_attn.v_proj', 'attn_v'],
  ['self_attn.o_proj', 'attn_output'],
  ['input_layernorm', 'attn_norm'],
  ['post_attention_layernorm', 'ffn_norm'],
  ['mlp.gate_proj', 'ffn_gate'],
  ['mlp.up_proj', 'ffn_up'],
  ['mlp.down_proj', 'ffn_down'],
];

interface Config {
  model_type: string;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim?: number;
  rms_norm_eps: number;
  rope_theta?: number;
  max_position_embeddings: number;
  rope_parameters?: { rope_theta: number; rope_type: string; factor?: number };
}

/** What a file is made of, to be changed before it is written. */
export interface GgufParts {
  entries: Entry[];
  tensors: TensorInfo[];
}

/** The model of a golden: fp32, without tokenizer. */
export async function ggufParts(golden: string): Promise<GgufParts> {
  const config = JSON.parse(await readFile(join(goldenDir(golden), 'config.json'), 'utf8')) as Config;
  const { model_type: architecture, num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
  const headDim = config.head_dim ?? config.hidden_size / heads;
  const rope = config.rope_parameters;
  const key = (name: string) => `${architecture}.${name}`;
  const entries = [
    entry.text('general.architecture', architecture),
    entry.u32(key('context_length'), config.max_position_embeddings),
    entry.u32(key('embedding_length'), config.hidden_size),
    entry.u32(key('feed_forward_length'), config.intermediate_size),
    entry.u32(key('block_count'), config.num_hidden_layers),
    entry.u32(key('attention.head_count'), heads),
    entry.u32(key('attention.head_count_kv'), kvHeads),
    entry.u32(key('attention.key_length'), headDim),
    entry.u32(key('rope.dimension_count'), headDim),
    entry.f32(key('attention.layer_norm_rms_epsilon'), config.rms_norm_eps),
    entry.f32(key('rope.freq_base'), (rope?.rope_theta ?? config.rope_theta) as number),
  ];
  if (rope && rope.rope_type !== 'default') {
    entries.push(entry.text(key('rope.scaling.type'), rope.rope_type));
    entries.push(entry.f32(key('rope.scaling.factor'), rope.factor as number));
  }
  const tensors = (await storedTensors(goldenDir(golden))).map((tensor) => {
    const { name, shape } = tensor;
    const headsOf = /\.q_proj\./.test(name) ? heads : /\.k_proj\./.test(name) ? kvHeads : null;
    return {
      name: modules.reduce((renamed, [from, to]) => renamed.replace(from, to), name),
      dims: shape.toReversed(),
      type: 0,
      data: architecture === 'llama' && headsOf ? interleaved(tensor, headsOf) : tensor.data,
    };
  });
  return { entries, tensors };
}

/** Row i of the first half of a head and row i of the second become neighbours. */
function interleaved({ data, shape }: StoredTensor, heads: number): Uint8Array {
  const rows = shape[0] as number;
  const bytes = data.length / rows;
  const half = rows / heads / 2;
  const order: Uint8Array[] = [];
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < half; i++) {
      for (const row of [head * 2 * half + i, head * 2 * half + half + i])
        order.push(data.subarray(row * bytes, (row + 1) * bytes));
    }
  }
  return new Uint8Array(Buffer.concat(order));
}

/** An fp32 tensor of one dim. */
export function vector(name: string, numbers: readonly number[]): TensorInfo {
  return { name, dims: [numbers.length], type: 0, data: fromFloat32('F32', Float32Array.from(numbers)) };
}
