import { type ErrorCode, HadalError } from './errors.js';

/** How {@link parseJson} reports: `part` opens the message, `what` names the text (usually a path). */
interface JsonOptions {
  readonly part: string;
  readonly what: string;
  readonly code?: ErrorCode;
}

const maxDepth = 128;

/**
 * Parses JSON from outside. Stricter than `JSON.parse`: no key twice in one object, no nesting that could exhaust the
 * memory, and UTF-8 that is whole when given bytes.
 *
 * @throws HadalError `options.code`, HADAL_ERR_FORMAT unless given
 */
export function parseJson(
  source: string | Uint8Array,
  { part, what, code = 'HADAL_ERR_FORMAT' }: JsonOptions,
): unknown {
  const fail = (found: string, cause?: unknown): HadalError =>
    new HadalError(code, `[${part}] expected valid JSON in ${what}, got ${found}`, { cause });
  let text: string;
  try {
    text = typeof source === 'string' ? source : new TextDecoder('utf-8', { fatal: true }).decode(source);
  } catch (error) {
    throw fail('bytes that are not UTF-8', error);
  }
  const fault = findFault(text);
  if (fault !== undefined) throw fail(fault);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw fail((error as Error).message.replaceAll(/\s*\n\s*/g, ' '), error); // it quotes the text
  }
}

/** Finds what `JSON.parse` lets pass. Follows strings and brackets only; the grammar itself is left to `JSON.parse`. */
function findFault(text: string): string | undefined {
  const keysOfDepth: (Set<string> | undefined)[] = []; // most levels are small arrays, which have no keys
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x7b || c === 0x5b) {
      if (keysOfDepth.push(undefined) > maxDepth) return `more than ${maxDepth} levels of nesting`;
    } else if (c === 0x7d || c === 0x5d) {
      keysOfDepth.pop();
    } else if (c === 0x22) {
      const start = i++;
      let hasEscape = false;
      for (let inner = text.charCodeAt(i); i < text.length && inner !== 0x22; inner = text.charCodeAt(i)) {
        hasEscape ||= inner === 0x5c;
        i += inner === 0x5c ? 2 : 1;
      }
      let next = i + 1;
      while (isSpace(text.charCodeAt(next))) next++;
      if (text.charCodeAt(next) !== 0x3a || keysOfDepth.length === 0) continue;
      const key = hasEscape ? unescapeKey(text.slice(start, i + 1)) : text.slice(start + 1, i);
      const keys = keysOfDepth.at(-1);
      if (keys?.has(key)) return `the key '${key}' twice`;
      if (keys) keys.add(key);
      else keysOfDepth[keysOfDepth.length - 1] = new Set([key]);
    }
  }
  return undefined;
}

const isSpace = (c: number): boolean => c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09;

function unescapeKey(literal: string): string {
  try {
    return String(JSON.parse(literal));
  } catch {
    return literal; // JSON.parse of the whole text will refuse it
  }
}
