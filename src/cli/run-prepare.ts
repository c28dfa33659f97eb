// `hadal prepare`: makes token shards, or shows packed rows.
import { styleText } from 'node:util';
import { HadalError } from '../core/errors.js';
import { formatBytes, formatInteger } from '../core/format.js';
import { type PackedRow, packedRows, type RowPiece } from '../data/packed-rows.js';
import { type PartSummary, prepare } from '../data/prepare-directory.js';
import { sourcesOf } from './data-flags.js';
import { abortOnInterrupt } from './interrupt.js';
import { invocation, quoted } from './invocation.js';
import { printJson, printLine } from './output.js';
import type { PrepareFlags } from './prepare.js';
import { progressLine } from './progress-line.js';

/** Prepares, or shows. @throws HadalError HADAL_ERR_USAGE, and what `prepare` throws */
export async function runPrepare(flags: PrepareFlags): Promise<void> {
  if (flags.data === undefined) throw usageError('--data', 'name files, folders or globs to read');
  if (flags.show !== undefined) return show(flags, flags.data);
  const { tokenizer, out, heldOut, shardTokens, threads, json } = flags;
  if (tokenizer === undefined)
    throw usageError(
      '--tokenizer',
      `learn one with: ${invocation()} tokenizer train --data … --vocab-size 8192 --out my-tokenizer`,
    );
  if (out === undefined) throw usageError('--out', 'name the directory to make');
  using signal = abortOnInterrupt(() => {});
  using progress = progressLine(process.stderr);
  const beganMs = performance.now();
  const made = await prepare(
    {
      ...sourceFlags(flags),
      tokenizer,
      out,
      ...(heldOut === undefined ? {} : { heldOut }),
      ...(shardTokens === undefined ? {} : { shardTokens }),
      ...(threads === undefined ? {} : { threads }),
    },
    {
      signal,
      onProgress: ({ documents, tokens }) =>
        progress.show(`${formatInteger(documents)} documents, ${formatInteger(tokens)} tokens`),
    },
  );
  progress.clear();
  if (json) return printJson(made);
  const part = ({ documents, tokens, textBytes }: PartSummary): string =>
    `${formatInteger(tokens)} tokens of ${formatInteger(documents)} documents, ${formatBytes(textBytes)}`;
  const how = made.reused ? 'made earlier' : `${((performance.now() - beganMs) / 1000).toFixed(1)} s`;
  printLine(`${out}: ${part(made.train)}; held out ${made.heldOut ? part(made.heldOut) : 'nothing'} (${how})`);
  if (made.invalidUtf8 > 0)
    printLine(`${formatInteger(made.invalidUtf8)} characters stand for bytes that were not UTF-8`);
  printLine(`next   ${invocation()} train --data ${quoted(out)}`);
  printLine(`       ${invocation()} prepare --data ${quoted(out)} --show`);
}

function sourceFlags(flags: PrepareFlags) {
  const { textField, invalidUtf8, specialTokens } = flags;
  return {
    sources: sourcesOf(flags),
    ...(textField === undefined ? {} : { textField }),
    ...(invalidUtf8 === undefined ? {} : { invalidUtf8 }),
    specialTokensAsText: !specialTokens,
  };
}

async function show(flags: PrepareFlags, data: readonly string[]): Promise<void> {
  const { show: rows, seqLen, seed, tokenizer, json } = flags;
  const options = { ...sourceFlags(flags), rows: rows === true ? 2 : (rows ?? 2), seqLen, seed, tokenizer };
  let shown = 0;
  for await (const row of packedRows(options)) {
    if (json) printJson({ type: 'row', ...row });
    else printRow(row, shown === 0);
    shown++;
  }
  if (shown === 0) throw new HadalError('HADAL_ERR_DATA', `[data] expected tokens, got none in ${data.join(', ')}`);
}

function printRow({ row, seqLen, targets, padding, documents }: PackedRow, isFirst: boolean): void {
  if (isFirst) printLine('What is in ⟦ ⟧ predicts nothing (label −100): the next token is of another document.');
  const count = `${documents.length} ${documents.length === 1 ? 'document' : 'documents'}`;
  printLine();
  printLine(bold(`row ${row}: ${seqLen} positions, ${targets} targets, ${padding} padding, ${count}`));
  for (const { begin, ids, pieces } of documents) {
    const end = begin + ids.length - 1;
    printLine(dim(`── positions ${begin} to ${end} ${'─'.repeat(Math.max(0, 50 - `${begin}${end}`.length))}`));
    printLine(pieces.map(marked).join(''));
  }
}

const isColoured = (): boolean => process.stdout.isTTY === true && !process.env.NO_COLOR;
const bold = (text: string): string => (isColoured() ? styleText('bold', text) : text);
const dim = (text: string): string => (isColoured() ? styleText('dim', text) : text);

/** Text as it is but for control characters, which a terminal would obey. */
function marked({ text, isTarget }: RowPiece): string {
  const safe = text.replaceAll(/[\p{Cc}\p{Cf}]/gu, (c) =>
    c === '\n' || c === '\t' ? c : `\\u{${c.codePointAt(0)?.toString(16)}}`,
  );
  return isTarget ? safe : dim(`⟦${safe}⟧`);
}

function usageError(flag: string, fix: string): HadalError {
  return new HadalError('HADAL_ERR_USAGE', `[prepare] expected ${flag}, got none; ${fix}`);
}
