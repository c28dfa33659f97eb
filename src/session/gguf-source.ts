// Models in GGUF files, which carry configuration, tokenizer and tensors under llama.cpp's names.
import type { Shape } from '../core/shape.js';
import { tokenizerOfGguf } from '../data/gguf-tokenizer.js';
import { createTokenizer } from '../data/tokenizer.js';
import { fromFloat32 } from '../formats/convert.js';
import { GgufFile } from '../formats/gguf.js';
import { type SafetensorsDType, safetensorsDTypes } from '../formats/safetensors.js';
import type { ElementRange } from '../formats/tensor-pieces.js';
import { modelFromConfig } from '../models/families.js';
import { configOfGguf, ropeFactorsName } from './gguf-config.js';
import type { ModelSource, SourceTensors } from './model-source.js';

/** A GGUF file, or the first of its parts. @throws HadalError HADAL_ERR_FORMAT, HADAL_ERR_CONFIG, HADAL_ERR_IO */
export async function ggufSource(path: string): Promise<ModelSource> {
  await using file = await GgufFile.open(path);
  const config = await configOfGguf(file);
  const { metadata } = file;
  return {
    path,
    model: modelFromConfig(config, path),
    generation: null,
    tokenizer: async () => {
      const files = tokenizerOfGguf(metadata);
      return files && createTokenizer(files.json, files.configJson, path);
    },
    openTensors: async () => new GgufTensors(await GgufFile.open(path), config),
  };
}

const modules: Record<string, string> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};
const wholeModel: Record<string, string> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

/** Hugging Face's name; a tensor that the model does not have keeps its own, and is refused under it. */
function huggingFaceName(name: string): string {
  const [, layer, module = '', kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name) ?? [];
  if (Object.hasOwn(modules, module)) return `model.layers.${layer}.${modules[module]}.${kind}`;
  return Object.hasOwn(wholeModel, name) ? (wholeModel[name] as string) : name;
}

class GgufTensors implements SourceTensors {
  readonly shapes: ReadonlyMap<string, Shape>;
  readonly factors = new Map<string, Shape>();
  readonly #ownNames: ReadonlyMap<string, string>;

  constructor(
    private readonly file: GgufFile,
    private readonly config: Readonly<Record<string, unknown>>,
  ) {
    const names = [...file.tensors.keys()].filter((name) => name !== ropeFactorsName);
    this.#ownNames = new Map(names.map((name) => [huggingFaceName(name), name]));
    this.shapes = new Map(
      [...this.#ownNames].map(([name, own]) => [name, (file.tensors.get(own) as { shape: Shape }).shape]),
    );
  }

  async read(name: string, format: SafetensorsDType, range?: ElementRange): Promise<Uint8Array> {
    const bytes = await this.#readWhole(name, format);
    const width = safetensorsDTypes[format];
    return range ? bytes.subarray(range.first * width, (range.first + range.count) * width) : bytes;
  }

  async #readWhole(name: string, format: SafetensorsDType): Promise<Uint8Array> {
    const own = this.#ownNames.get(name) ?? name;
    const tensor = this.file.tensors.get(own);
    const bytes =
      tensor?.type.name === format ? await this.file.read(own) : fromFloat32(format, await this.file.readFloats(own));
    const heads = this.#interleavedHeads(name);
    return tensor && heads ? inHalves(bytes, tensor.shape, heads) : bytes;
  }

  /** For Llama's queries and keys, in how many heads llama.cpp has interleaved the two halves of the rotary dims. */
  #interleavedHeads(name: string): number | null {
    if (this.config.model_type !== 'llama') return null;
    if (/\.q_proj\./.test(name)) return this.config.num_attention_heads as number;
    return /\.k_proj\./.test(name) ? (this.config.num_key_value_heads as number) : null;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.file.close();
  }
}

/** Rows of each head, which come as 0, h, 1, h+1, …, in the order 0, 1, …, h, h+1, … of Hugging Face. */
function inHalves(bytes: Uint8Array, shape: Shape, heads: number): Uint8Array {
  const rows = shape[0] as number;
  const rowBytes = bytes.byteLength / rows;
  const headRows = rows / heads;
  const ordered = new Uint8Array(bytes.byteLength);
  for (let row = 0; row < rows; row++) {
    const inHead = row % headRows;
    const target = row - inHead + (inHead % 2) * (headRows / 2) + (inHead >> 1);
    ordered.set(bytes.subarray(row * rowBytes, (row + 1) * rowBytes), target * rowBytes);
  }
  return ordered;
}
