// Ways to make a run fit that does not, each planned before it is named.
import { formatBytes } from '../core/format.js';
import { type Candidate, type Candidates, divisorsOf } from './candidates.js';
import { hasSnapshot } from './memory.js';
import type { SizedConfig } from './step-config.js';

/** A configuration and how it differs from the wished one. */
interface Way {
  config: SizedConfig;
  /** New values by field. */
  changes: ReadonlyMap<string, string>;
}

/** What may be changed of a configuration, least first; nothing where it is so already. */
type Change = (way: Way) => Way[];

/** So many ways are named. */
const mostWays = 3;
/** Rows of logits at a time where memory is short: fewer hardly take less, beside what else a step holds. */
export const smallChunk = 32;
/** Tokens below which nobody wants rows. */
const shortestRows = 16;

/**
 * The cheapest ways to make a run fit: single changes, first those that keep results, by the time of an update; where these
 * are too few, several together. Empty where nothing helps.
 */
export async function waysToFit(run: Candidate, candidates: Candidates): Promise<string[]> {
  const wished: Way = { config: run.config, changes: new Map() };
  const found: string[] = [];
  for (const changes of [keepingResults, changingResults]) {
    const fitting = await Promise.all(changes.map((change) => firstFitting(change(wished), candidates)));
    const ways = fitting.filter((each) => each !== null).sort((a, b) => a.candidate.seconds - b.candidate.seconds);
    found.push(...ways.map(({ way, candidate }) => described(way, candidate, run)));
  }
  let most = wished;
  for (const change of [...keepingResults, ...changingResults]) {
    if (found.length >= mostWays) break;
    const further = change(most);
    const together = most === wished ? null : await firstFitting(further, candidates);
    if (together) found.push(described(together.way, together.candidate, run));
    most = further.at(-1) ?? most;
  }
  return found.slice(0, mostWays);
}

/** A way that goes further. @param field - what it sets, once more where it is set already */
function changed({ config, changes }: Way, patch: Partial<SizedConfig>, field: string, value: unknown): Way {
  return { config: { ...config, ...patch }, changes: new Map([...changes, [field, `${value}`]]) };
}

const microBatches: Change = (way) => {
  const { batch, gradAccumulationSteps: now } = way.config;
  return divisorsOf(batch)
    .filter((parts) => parts > now)
    .map((parts) =>
      changed(
        way,
        { gradAccumulationSteps: parts },
        'gradAccumulationSteps',
        `${parts} (micro-batch ${batch / parts})`,
      ),
    );
};

const checkpointing =
  (policy: 'selective' | 'sqrt', weaker: readonly unknown[]): Change =>
  (way) =>
    weaker.includes(way.config.activationCheckpointing)
      ? [changed(way, { activationCheckpointing: policy }, 'activationCheckpointing', policy)]
      : [];

const waitingCheckpoints: Change = (way) => {
  const { checkpoint } = way.config;
  return hasSnapshot(way.config)
    ? [changed(way, { checkpoint: { ...checkpoint, background: false } }, 'checkpoint.background', false)]
    : [];
};

const offload =
  (part: 'optimizer' | 'parameters'): Change =>
  (way) => {
    const { memory } = way.config;
    const patch = { memory: { ...memory, offload: { ...memory.offload, [part]: true } } };
    return memory.offload[part] ? [] : [changed(way, patch, `memory.offload.${part}`, true)];
  };

const fewerLogits: Change = (way) => {
  const { memory } = way.config;
  return memory.lossChunkRows === smallChunk
    ? []
    : [changed(way, { memory: { ...memory, lossChunkRows: smallChunk } }, 'memory.lossChunkRows', smallChunk)];
};

const narrowMoments: Change = (way) => {
  const { optimizer } = way.config;
  return optimizer.momentDtype === 'bf16'
    ? []
    : [changed(way, { optimizer: { ...optimizer, momentDtype: 'bf16' } }, 'optimizer.momentDtype', 'bf16')];
};

const shorterRows: Change = (way) => {
  const shorter: Way[] = [];
  for (let seqLen = way.config.seqLen >> 1; seqLen >= shortestRows; seqLen >>= 1) {
    shorter.push(changed(way, { seqLen }, 'seqLen', seqLen));
  }
  return shorter;
};

const keepingResults = [
  waitingCheckpoints,
  checkpointing('selective', ['none']),
  checkpointing('sqrt', ['none', 'selective']),
  microBatches,
  fewerLogits,
  offload('optimizer'),
  offload('parameters'),
];
const changingResults = [narrowMoments, shorterRows];

async function firstFitting(
  ways: readonly Way[],
  candidates: Candidates,
): Promise<{ way: Way; candidate: Candidate } | null> {
  const candidate = await candidates.firstFitting(ways.map(({ config }) => config));
  const way = ways.find(({ config }) => config === candidate?.config);
  return candidate && way ? { way, candidate } : null;
}

function described({ changes }: Way, { memory, seconds }: Candidate, run: Candidate): string {
  const fields = [...changes].map(([field, value]) => `${field} ${value}`);
  return `${fields.join(' and ')} (${formatBytes(memory.total)}, ${(seconds / run.seconds).toFixed(2)} × the time)`;
}
