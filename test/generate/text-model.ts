import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type LoadedModel, loadModel } from '../../src/generate/loaded-model.js';
import { copyModel, withDirectory } from '../session/model-copies.js';

const special = (id: number, content: string) => ({
  id,
  content,
  special: true,
  single_word: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
});

/** A byte-level tokenizer of 101 ids: bos, eos, printable ASCII and the three bytes of '中', one of them special. */
function tokenizerJson(): string {
  const bytes = Array.from({ length: 95 }, (_, i) => (i === 0 ? '\u0120' : String.fromCharCode(32 + i)));
  const tokens = ['<s>', '</s>', ...bytes, '\u00e4', '\u00b8', '\u0143', '<|im_end|>'];
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false };
  return JSON.stringify({
    version: '1.0',
    added_tokens: [special(0, '<s>'), special(1, '</s>'), special(100, '<|im_end|>')],
    pre_tokenizer: byteLevel,
    decoder: byteLevel,
    model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: [] },
  });
}

/** Makes a golden's model (of 101 ids) speak ASCII and '中'. */
export async function writeTextModel(
  golden: string,
  dir: string,
  tokenizerConfig?: object,
  config: Record<string, unknown> = {},
): Promise<void> {
  await copyModel(golden, dir, { config });
  await writeFile(join(dir, 'tokenizer.json'), tokenizerJson());
  if (tokenizerConfig) await writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify(tokenizerConfig));
}

/** Such a model for as long as `use` runs. */
export const withTextModel = (
  golden: string,
  use: (model: LoadedModel) => Promise<void>,
  tokenizerConfig?: object,
): Promise<void> =>
  withDirectory(async (dir) => {
    await writeTextModel(golden, dir, tokenizerConfig);
    using model = await loadModel(dir, { device: 'cpu', threads: 2 });
    await use(model);
  });
