// Progress as plain lines, for logs and pipes.
import { formatInteger } from '../core/format.js';
import { Eta, lastingLines, prepareLine, stepFields, type TrainListener } from './lines.js';

const everySteps = 10;
const everyMs = 2000;

/** Lines that stay, and one for the first step, the last, and every ten steps or two seconds between. */
export function plainLog(write: (line: string) => void, now: () => number = () => performance.now()): TrainListener {
  const eta = new Eta(now);
  let last = { ms: Number.NEGATIVE_INFINITY, step: Number.NEGATIVE_INFINITY, phase: '' };
  return (event) => {
    if (event.type === 'start' || event.type === 'rollback') eta.begin(event.step);
    for (const line of lastingLines(event)) write(line);
    if (event.type === 'rollback') last = { ...last, step: event.step };
    if (event.type === 'prepare') {
      if (event.phase === last.phase && now() - last.ms < everyMs) return;
      last = { ...last, ms: now(), phase: event.phase };
      write(prepareLine(event));
    } else if (event.type === 'step') {
      const due = event.step - last.step >= everySteps || now() - last.ms >= everyMs || event.step === event.steps;
      if (!due && !event.skipped) return;
      last = { ms: now(), step: event.step, phase: '' };
      const fields = stepFields(event, eta.left(event));
      write([`step   ${formatInteger(event.step)}/${formatInteger(event.steps)}`, ...fields].join('  '));
    }
  };
}
