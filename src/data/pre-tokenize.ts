// Text is split before merges are learnt or applied; no token crosses a border. Patterns of DeepSeek-V3's
// tokenizer.json: runs of up to three digits, runs of Chinese and Japanese, then words, punctuation and space. They
// mean the same to JavaScript and to the Rust library's regular expressions.
export const splitPatterns = [
  '\\p{N}{1,3}',
  '[一-龥぀-ゟ゠-ヿ]+',
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+' +
    '|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+' +
    '| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
];

const expressions = splitPatterns.map((pattern) => new RegExp(pattern, 'gu'));

/** Pieces of a text: matches of each pattern and what lies between them, split again by the next pattern. */
export function preTokenize(text: string): string[] {
  return expressions.reduce(
    (pieces, expression) => pieces.flatMap((piece) => splitIsolated(piece, expression)),
    [text],
  );
}

function splitIsolated(text: string, expression: RegExp): string[] {
  const pieces: string[] = [];
  let end = 0;
  for (const match of text.matchAll(expression)) {
    if (match.index > end) pieces.push(text.slice(end, match.index));
    pieces.push(match[0]);
    end = match.index + match[0].length;
  }
  if (end < text.length) pieces.push(text.slice(end));
  return pieces;
}

/**
 * The printable character that stands for each byte in a byte-level vocabulary: itself where it is printable Latin-1,
 * else one from U+0100 on. Radford et al. 2019 (GPT-2), `bytes_to_unicode`.
 */
export const charOfByte: readonly string[] = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 0x100 + others++));
})();
