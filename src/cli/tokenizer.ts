import type { Command } from 'commander';
import { type CommonFlags, described, wholeNumber } from './output.js';

interface TrainFlags extends CommonFlags {
  data: string[];
  vocabSize: number;
  out: string;
  textField?: string;
  threads?: number;
}

interface CodeFlags extends CommonFlags {
  tokenizer: string;
}

/** `hadal tokenizer train`, `encode`, `decode`. */
export function registerTokenizer(program: Command): void {
  const group = program.command('tokenizer').description('Train a tokenizer, or use one.');
  described(group.command('train'), 'Learn a byte-level BPE vocabulary; writes tokenizer.json.', [
    'tokenizer train --data corpus/ --vocab-size 8192 --out my-tokenizer',
  ])
    .requiredOption(
      '--data <path...>',
      'files, folders or quoted globs of .txt, .md, .jsonl, .csv, .tsv (each also .gz) or .parquet; or sotu, synthetic',
    )
    .requiredOption('--vocab-size <n>', 'all tokens: special ones, 256 bytes, merges', wholeNumber(1))
    .requiredOption('--out <dir>', 'where tokenizer.json and tokenizer_config.json go')
    .option('--text-field <name>', 'field of a JSON line, or column of a table, that holds the text (default: text)')
    .option('--threads <n>', 'worker threads', wholeNumber(1))
    .action(train);
  described(group.command('encode'), 'Token ids of a text.', [
    'tokenizer encode --tokenizer my-tokenizer "Hello, world"',
  ])
    .requiredOption('--tokenizer <path>', 'tokenizer.json, or a directory with one')
    .argument('[text]', 'the text; read from stdin where it is left out')
    .action(encode);
  described(group.command('decode'), 'Text of token ids.', ['tokenizer decode --tokenizer my-tokenizer 72 101 108'])
    .requiredOption('--tokenizer <path>', 'tokenizer.json, or a directory with one')
    .argument('[ids...]', 'token ids; read from stdin where they are left out')
    .action(decode);
}

async function train({ data, vocabSize, out, textField, threads, json }: TrainFlags): Promise<void> {
  const [
    { saveTokenizer, trainTokenizer },
    { abortOnInterrupt },
    { progressLine },
    { printJson, printLine },
    { formatInteger },
    { existsSync },
    { join },
    { HadalError },
  ] = await Promise.all([
    import('../data/train-tokenizer.js'),
    import('./interrupt.js'),
    import('./progress-line.js'),
    import('./output.js'),
    import('../core/format.js'),
    import('node:fs'),
    import('node:path'),
    import('../core/errors.js'),
  ]);
  if (existsSync(join(out, 'tokenizer.json'))) {
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[tokenizer] expected a folder without a tokenizer, got ${out}; give another --out, or remove its tokenizer.json`,
    );
  }
  using signal = abortOnInterrupt(() => {});
  using progress = progressLine(process.stderr);
  const learnt = await trainTokenizer({
    sources: data,
    vocabSize,
    signal,
    ...(textField === undefined ? {} : { textField }),
    ...(threads === undefined ? {} : { threads }),
    onProgress: ({ phase, done, total }) =>
      progress.show(
        phase === 'words'
          ? `${formatInteger(done)} documents read`
          : `${formatInteger(done)} of ${formatInteger(total ?? 0)} merges`,
      ),
  });
  await saveTokenizer(out, learnt);
  progress.clear();
  if (json) printJson({ out, vocabSize: learnt.vocabSize });
  else
    printLine(
      `${out}: ${formatInteger(learnt.vocabSize)} tokens${learnt.vocabSize < vocabSize ? ' (the text has no more pairs to merge)' : ''}`,
    );
}

async function encode(text: string | undefined, { tokenizer: path, json }: CodeFlags): Promise<void> {
  const [{ loadTokenizer }, { printJson, printLine }] = await Promise.all([
    import('../data/tokenizer.js'),
    import('./output.js'),
  ]);
  const tokenizer = await loadTokenizer(path);
  const ids = [...(await tokenizer.encode(text ?? (await readStdin())))];
  if (json) printJson({ ids });
  else printLine(ids.join(' '));
}

async function decode(given: readonly string[], { tokenizer: path, json }: CodeFlags): Promise<void> {
  const [{ loadTokenizer }, { printJson, printLine }, { HadalError }] = await Promise.all([
    import('../data/tokenizer.js'),
    import('./output.js'),
    import('../core/errors.js'),
  ]);
  const tokenizer = await loadTokenizer(path);
  const words = given.length > 0 ? given : (await readStdin()).split(/[\s,[\]]+/).filter(Boolean);
  const ids = words.map((word) => {
    const id = Number(word);
    if (Number.isInteger(id) && id >= 0 && id < tokenizer.vocabSize) return id;
    throw new HadalError(
      'HADAL_ERR_USAGE',
      `[tokenizer] expected token ids from 0 to ${tokenizer.vocabSize - 1}, got '${word}'`,
    );
  });
  const text = await tokenizer.decode(ids, { skipSpecialTokens: false });
  if (json) printJson({ text });
  else printLine(text);
}

async function readStdin(): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString('utf8');
}
