// Altered copies of the golden model directories.
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openTensorDirectory } from '../../src/formats/safetensors.js';
import { type TensorToWrite, writeTensorDirectory } from '../../src/formats/safetensors-writer.js';
import { goldenDir } from '../goldens/golden.js';

/** A temporary directory for as long as `use` runs. */
export async function withDirectory(use: (dir: string) => Promise<void>): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'hadal-'));
  try {
    await use(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}

export interface StoredTensor extends TensorToWrite {
  readonly data: Uint8Array;
}

/** Every tensor of a model directory. */
export async function storedTensors(dir: string): Promise<StoredTensor[]> {
  await using files = await openTensorDirectory(dir);
  return Promise.all(
    [...files.tensors].map(async ([name, { dtype, shape }]) => ({ name, dtype, shape, data: await files.read(name) })),
  );
}

/** Copies a golden's model into `dir`, its tensors and config changed. */
export async function copyModel(
  golden: string,
  dir: string,
  change: {
    tensors?: (tensors: StoredTensor[]) => StoredTensor[];
    config?: Record<string, unknown>;
    maxShardBytes?: number;
  },
): Promise<void> {
  await cp(join(goldenDir(golden), 'config.json'), join(dir, 'config.json'));
  const tensors = await storedTensors(goldenDir(golden));
  const { maxShardBytes = 5e9 } = change;
  await writeTensorDirectory(dir, change.tensors?.(tensors) ?? tensors, { maxShardBytes });
  const path = join(dir, 'config.json');
  const config = { ...(JSON.parse(await readFile(path, 'utf8')) as object), ...change.config };
  await writeFile(path, JSON.stringify(config));
}
