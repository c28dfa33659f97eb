// What the slots of training programs are for, by name.
import { watchPrefix } from '../passes/watch.js';
import { workingCopyPrefix } from '../passes/working-copies.js';

/** Sums and measures of one update, and what is made from the parameters. */
export const isPassing = (name: string): boolean =>
  name === 'losses' || ['gradient/', 'load/', watchPrefix, workingCopyPrefix].some((prefix) => name.startsWith(prefix));
