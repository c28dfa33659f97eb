// Names of kernels as people say them: `rms_norm::forward<Bf16, float>` for what the linker calls
// `_ZN5hadal4cuda5entryIXadL_ZNS0_8rms_norm7forward…`.
import { spawnSync } from 'node:child_process';

/** @param {readonly string[]} symbols @returns {string[]} */
export function demangled(symbols) {
  const { status, stdout, error } = spawnSync('c++filt', { input: symbols.join('\n'), encoding: 'utf8' });
  if (status !== 0) throw new Error(`c++filt, of binutils, does not run: ${error?.message ?? `exit status ${status}`}`);
  return stdout.trimEnd().split('\n');
}

/**
 * The body that a kernel runs, with its template arguments, without namespaces that are everywhere.
 *
 * @param {string} name demangled `void hadal::cuda::entry<&(void hadal::cuda::rms_norm::forward<…>(…)), 256, 1, …>(…)`, or the
 *   body as GCC prints it
 */
export function bodyOf(name) {
  const entry = /\bentry<&?\(?&?/.exec(name);
  const body = balanced(entry ? name.slice(entry.index + entry[0].length) : name);
  return body
    .replace(/^\(?&?/, '')
    .replace(/^void /, '')
    .replace(/\bhadal::(?:cuda::)?/g, '')
    .replace(/\b(\d+)u?l{0,2}\b/g, '$1')
    .replace(/\(bool\)1\b/g, 'true')
    .replace(/\(bool\)0\b/g, 'false')
    .replace(/\bshort unsigned int\b/g, 'unsigned short')
    .replace(/\blong unsigned int\b/g, 'unsigned long')
    .replace(/ >/g, '>')
    .trim();
}

/** What stands before the first parenthesis or comma that is not within angle brackets. */
function balanced(text) {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    if (text[i] === '<') depth += 1;
    else if (text[i] === '>') depth -= 1;
    else if (depth === 0 && i > 0 && /[(),;\]]/.test(text[i])) return text.slice(0, i);
  }
  return text;
}

/** @param {readonly string[]} symbols @returns {string[]} one name for each; where bodies are alike, with their threads */
export function kernelNames(symbols) {
  const names = demangled(symbols);
  const bodies = names.map(bodyOf);
  return bodies.map((body, i) => {
    if (bodies.filter((other) => other === body).length === 1) return body;
    // entry<body, threads, blocksPerProcessor, …>
    const numbers = /, (\d+), (\d+)(?:, |>)/.exec(names[i]?.slice(names[i].indexOf(')')) ?? '');
    return `${body} @${numbers?.[1]}x${numbers?.[2]}`;
  });
}
