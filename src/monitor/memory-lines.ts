// The table of what training takes, as `train` prints it before the first step and `inspect` without one.
import { formatBytes } from '../core/format.js';
import { type MemoryTable, memoryKinds } from '../train/events.js';

const meanings = {
  weights: 'weights',
  gradients: 'gradients',
  optimizer: 'optimizer',
  activations: 'activations',
  workspace: 'workspace',
  buffers: 'inputs, outputs, programs',
  snapshot: 'copy for checkpoints',
} as const;

/** A line a kind, aligned; kinds that take nothing have none. */
export function memoryLines(memory: MemoryTable): string[] {
  const rows: [string, number][] = memoryKinds.map((kind) => [meanings[kind], memory[kind]]);
  if (memory.base !== null) rows.push(['the process itself', memory.base]);
  rows.push(['total', memory.total], ['in a file instead', memory.offloaded]);
  if (memory.budget !== null) rows.push(['budget', memory.budget]);
  const shown = rows.filter(([, bytes]) => bytes > 0).map(([name, bytes]) => [name, formatBytes(bytes)] as const);
  const [names, numbers] = [0, 1].map((column) => Math.max(...shown.map((row) => (row[column] as string).length)));
  return shown.map(([name, bytes]) => `${name.padEnd(names as number)}  ${bytes.padStart(numbers as number)}`);
}
