import { type Command, InvalidArgumentError } from 'commander';
import { type CommonFlags, described, numberBetween, wholeNumber } from './output.js';

/** Flags of `hadal bench comm`. */
export interface BenchCommFlags extends CommonFlags {
  /** Bytes of fp32. */
  sizes: number[];
  /** Bits a second. */
  link?: number;
  nproc?: number;
  only?: string;
  threads: number;
  timeout: number;
}

/** `hadal bench comm`. */
export function registerBenchComm(group: Command): void {
  described(
    group.command('comm'),
    'Time of every collective and of every compression of gradients, among the processes that it is started in.',
    ['launch --nproc 2 -- bench comm --sizes 4K,1M,64M --link 1Gbit', 'bench comm --nproc 4 --only all-reduce --json'],
  )
    .option('--sizes <list>', 'sizes to measure, of fp32 numbers: bytes, or with K, M, G', byteSizes, [
      ...[2 ** 12, 2 ** 20, 2 ** 26],
    ])
    .option(
      '--link <speed>',
      'also say which compression pays on a link of so many bits a second: 1Gbit, 100Mbit',
      bits,
    )
    .option('--nproc <n>', 'start so many processes here, where no launcher has', wholeNumber(2))
    .option('--only <text>', 'only collectives and compressions whose names contain it')
    .option('--threads <n>', 'threads of each process', wholeNumber(1), 1)
    .option('--timeout <seconds>', 'that a process waits for the others', numberBetween(1, 3600), 60)
    .action(async (flags: BenchCommFlags) => {
      const { benchComm } = await import('./run-bench-comm.js');
      await benchComm(flags);
    });
}

const binary = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };
const mostBytes = 2 ** 32;

/** `4K,1M`: bytes, whole fp32 numbers. */
export function byteSizes(text: string): number[] {
  return text.split(',').map((each) => {
    const [, digits = '', unit = ''] = /^(\d+)([KMG]?)$/i.exec(each.trim()) ?? [];
    const bytes = Number(digits) * binary[unit.toUpperCase() as keyof typeof binary];
    if (digits !== '' && bytes >= 4 && bytes <= mostBytes && bytes % 4 === 0) return bytes;
    throw new InvalidArgumentError('Expected sizes like 4K,1M,64M: multiples of 4 bytes up to 4G.');
  });
}

const decimal = { K: 1e3, M: 1e6, G: 1e9 };

/** `1Gbit`, `100Mbit`, `2.5Gbit/s`: bits a second. */
export function bits(text: string): number {
  const [, digits = '', unit = ''] = /^(\d+(?:\.\d+)?)([KMG])bit(?:\/s)?$/i.exec(text.trim()) ?? [];
  const speed = Number(digits) * decimal[unit.toUpperCase() as keyof typeof decimal];
  if (digits !== '' && speed > 0) return speed;
  throw new InvalidArgumentError('Expected a speed like 1Gbit or 100Mbit.');
}
