// What is read from files of strangers: for each kind the files that are damaged, and what is done with them. Runs compiled code.
import fs, { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stringify } from 'yaml';
import { readConfigFile } from '../../dist/cli/config-file.js';
import { presets } from '../../dist/cli/presets/presets.js';
import { readDocuments } from '../../dist/data/sources.js';
import { createTokenizer } from '../../dist/data/tokenizer.js';
import { GgufFile } from '../../dist/formats/gguf.js';
import { openTensorDirectory } from '../../dist/formats/safetensors.js';
import { modelFromConfig } from '../../dist/models/families.js';
import { resolveTrainConfig } from '../../dist/train/config.js';
import { mutateBytes, mutateJson, pick } from './mutate.mjs';
import { composeTokenizer, smallTokenizer } from './tokenizer-parts.mjs';

const here = (path) => new URL(path, import.meta.url);
const read = (path) => readFileSync(here(path));

const tensors = read('../goldens/deepseek_v3_mtp/packed.safetensors');
const gguf = read('../formats/gguf-goldens.gguf');
const parquet = readdirSync(here('../formats/parquet/'))
  .filter((name) => name.endsWith('.parquet'))
  .map((name) => read(`../formats/parquet/${name}`));
const configs = ['deepseek_v2', 'deepseek_v3_mtp', 'deepseek_v3_yarn', 'gpt2', 'llama', 'qwen2'].map((name) =>
  JSON.parse(read(`../goldens/${name}/config.json`).toString()),
);
const csv = Buffer.from('id,text\r\n1,"a ""quoted"", text"\r\n2,"two\nlines"\r\n3,plain\r\n');

const index = { weight_map: { a: 'model-1.safetensors', b: 'model-2.safetensors' } };

/** `await using`, which the JavaScript of Node 20 does not have. */
async function closed(file, use) {
  try {
    await use();
  } finally {
    await file[Symbol.asyncDispose]();
  }
}

async function documentsOf(path) {
  for await (const { text } of readDocuments({ sources: [path] }))
    if (typeof text !== 'string') throw new TypeError('no text');
}

/**
 * Each takes random numbers and an empty folder, damages a file and reads it. What it throws must be a HadalError.
 *
 * @type {Record<string, (next: () => number, folder: string, seed: number) => Promise<unknown>>}
 */
export const targets = {
  async safetensors(next, folder) {
    if (next() < 0.7) writeFileSync(join(folder, 'model.safetensors'), mutateBytes(next, tensors));
    else writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(mutateJson(next, index)));
    const files = await openTensorDirectory(folder);
    await closed(files, async () => {
      for (const name of files.tensors.keys()) await files.read(name);
    });
  },
  async gguf(next, folder) {
    const path = join(folder, 'model.gguf');
    writeFileSync(path, mutateBytes(next, gguf));
    const file = await GgufFile.open(path);
    await closed(file, async () => {
      for (const name of file.tensors.keys()) await file.readFloats(name);
    });
  },
  async tokenizer(next) {
    const composed = next() < 0.6 ? composeTokenizer(next) : smallTokenizer;
    const text =
      next() < 0.7
        ? JSON.stringify(mutateJson(next, composed))
        : Buffer.from(mutateBytes(next, Buffer.from(JSON.stringify(composed)))).toString('utf8');
    const tokenizer = createTokenizer(text);
    const ids = await tokenizer.encode('The cat sat on 12 mats.\n\n  中文 \0 <|endoftext|> aaaa');
    const stream = tokenizer.decodeStream();
    for (const id of ids) await stream.push(id);
    await stream.flush();
    await tokenizer.decode([...ids, 5, 99999]);
  },
  async config(next, folder) {
    if (next() < 0.5) return modelFromConfig(mutateJson(next, pick(next, configs)));
    const preset = mutateJson(next, { ...presets.test(), out: 'run' });
    const [ending, text] = next() < 0.5 ? ['json', JSON.stringify(preset)] : ['yaml', stringify(preset)];
    const path = join(folder, `run.${ending}`);
    const bytes = Buffer.from(text);
    writeFileSync(path, next() < 0.5 ? bytes : mutateBytes(next, bytes));
    return resolveTrainConfig(await readConfigFile(path));
  },
  async parquet(next, folder) {
    const path = join(folder, 'text.parquet');
    writeFileSync(path, mutateBytes(next, pick(next, parquet)));
    await documentsOf(path);
  },
  async csv(next, folder) {
    const path = join(folder, pick(next, ['text.csv', 'text.tsv', 'text.jsonl', 'text.txt', 'text.csv.gz']));
    writeFileSync(path, mutateBytes(next, csv));
    await documentsOf(path);
  },
  /** What no case may do, a fault for each of the seeds 0 to 4: shows that it is noticed. */
  async planted(_next, folder, seed) {
    if (seed === 1) throw new TypeError('planted');
    if (seed === 2) fs.readFileSync(join(folder, '..', 'planted'));
    if (seed === 3) for (const end = performance.now() + 1100; performance.now() < end; );
    if (seed === 4) process.abort();
  },
};
