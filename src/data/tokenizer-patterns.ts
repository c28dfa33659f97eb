// The tokenizers library searches with a backtracking engine, which may take for ever, or end the process when it has gone
// back too often. Patterns come with models, from strangers: only those that are searched in linear time are let through.
import { type AST, RegExpParser } from '@eslint-community/regexpp';
import { envFlag } from '../core/env.js';

/** Repetitions from this count on are taken for endless ones. */
const endless = 64;
/** Ways in which a match's bounded parts may be tried. Published patterns have fewer than twenty. */
const mostWays = 4096;

/** Of DeepSeek's first tokenizers: quadratic in the longest run of spaces alone. */
const published = new Set([String.raw`\s+$`]);

/** Why a pattern is not let through. */
class Refusal extends Error {}

/**
 * Why a regular expression of a tokenizer.json is not let through: its search may take more than linear time, it may match
 * nothing at all, or it cannot be judged. null for one that is let through; with `HADAL_TRUST_PATTERNS=1` all are.
 */
export function patternProblem(source: string): string | null {
  if (envFlag('HADAL_TRUST_PATTERNS') > 0 || published.has(source)) return null;
  try {
    const { alternatives } = parse(source);
    if (!alternatives.every(({ elements }) => elements.some(consumes))) return 'that matches nothing at all';
    const retried = new Set<string>();
    const { loops, ways } = costOf(alternatives, false, retried);
    if (loops > 1) return 'with repetitions that are tried against each other';
    if (ways > mostWays) return 'with too many ways to match';
    const open = [...retried].find((raw) => !alternatives.some((alternative) => takesRun(alternative, raw)));
    return open === undefined ? null : 'where a long run is looked at anew from each of its characters';
  } catch (error) {
    if (error instanceof Refusal) return error.message;
    throw error;
  }
}

/** Character properties, which have more names than JavaScript knows, become characters of their own: structure is what matters. */
function parse(source: string): AST.Pattern {
  const names: string[] = [];
  const plain = source.replace(/\\[pP](?:\{\^?\w+\}|\w)/g, (name) => {
    if (!names.includes(name)) names.push(name);
    return `\\u{${(0xf0000 + names.indexOf(name)).toString(16)}}`;
  });
  try {
    return new RegExpParser({ ecmaVersion: 2025 }).parsePattern(plain, 0, plain.length, { unicode: true });
  } catch (error) {
    throw new Refusal(`(${(error as Error).message})`);
  }
}

/** What going back costs: the text's length to the power of `loops`, times `ways`. */
interface Cost {
  loops: number;
  ways: number;
}

/**
 * @param isRetried - whether what follows can fail, so that these parts are tried again
 * @param retried - collects what is repeated endlessly and tried again
 */
function costOf(alternatives: readonly AST.Alternative[], isRetried: boolean, retried: Set<string>): Cost {
  const costs = alternatives.map(({ elements }) => sequenceCost(elements, isRetried, retried));
  return {
    loops: Math.max(0, ...costs.map(({ loops }) => loops)),
    ways: costs.reduce((sum, { ways }) => sum + ways, 0),
  };
}

function sequenceCost(elements: readonly AST.Element[], isLastRetried: boolean, retried: Set<string>): Cost {
  let [loops, ways, isRetried] = [0, 1, isLastRetried];
  for (const element of [...elements].reverse()) {
    const cost = elementCost(element, isRetried, retried);
    loops += cost.loops;
    ways *= cost.ways;
    isRetried ||= canFail(element);
  }
  return { loops, ways };
}

function elementCost(element: AST.Element, isRetried: boolean, retried: Set<string>): Cost {
  switch (element.type) {
    case 'Quantifier':
      return quantifierCost(element, isRetried, retried);
    case 'Group':
    case 'CapturingGroup':
      return costOf(element.alternatives, isRetried, retried);
    case 'Assertion':
      return 'alternatives' in element ? costOf(element.alternatives, true, retried) : { loops: 0, ways: 1 };
    case 'Backreference':
      throw new Refusal('with a backreference');
    default:
      return { loops: 0, ways: 1 };
  }
}

function quantifierCost({ element, min, max }: AST.Quantifier, isRetried: boolean, retried: Set<string>): Cost {
  const inner = elementCost(element, true, retried);
  const isEndless = max >= endless;
  if (inner.loops > 0 || (isEndless && inner.ways > 1)) throw new Refusal('with repetitions within a repetition');
  if (!isEndless) return { loops: 0, ways: (isRetried ? max - min + 1 : 1) * inner.ways ** max };
  if (isRetried) retried.add(element.raw);
  return { loops: isRetried ? 1 : 0, ways: 1 };
}

function canFail(element: AST.Element): boolean {
  switch (element.type) {
    case 'Quantifier':
      return element.min > 0 && canFail(element.element);
    case 'Group':
    case 'CapturingGroup':
      return element.alternatives.every(({ elements }) => elements.some(canFail));
    default:
      return true;
  }
}

/** Whether an element matches one character at least. */
function consumes(element: AST.Element): boolean {
  switch (element.type) {
    case 'Quantifier':
      return element.min > 0 && consumes(element.element);
    case 'Group':
    case 'CapturingGroup':
      return element.alternatives.every(({ elements }) => elements.some(consumes));
    default:
      return element.type !== 'Assertion';
  }
}

/** Whether an alternative matches any run of the repeated part, so that no search begins again within the run. */
function takesRun({ elements }: AST.Alternative, raw: string): boolean {
  const at = elements.findIndex(canFail);
  const loop = elements[at];
  const isLoop = loop?.type === 'Quantifier' && loop.max >= endless && loop.min <= 1 && loop.element.raw === raw;
  return isLoop && !elements.slice(at + 1).some(canFail);
}
