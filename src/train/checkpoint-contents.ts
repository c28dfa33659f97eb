// What a checkpoint's directory holds: written by one process, or a part by each of several.
import { sizeOf } from '../core/shape.js';
import type { DirectoryContents } from '../formats/directory-contents.js';
import {
  byteLengthOf,
  defaultShardBytes,
  numberedFile,
  shardsOf,
  type TensorToWrite,
} from '../formats/safetensors-writer.js';
import type { TensorPieces } from '../formats/tensor-pieces.js';
import { type ModelFilesOptions, modelContents, type ReadPart, readPart } from '../session/model-directory.js';
import { hasUpdated, type TrainState } from './checkpoint.js';
import { emaContents } from './ema-model.js';
import { type SavedTensor, savedTensors, type TensorHolder } from './saved-tensors.js';

/** What is written where: the state of a training, and the files beside its weights. */
export interface CheckpointParts {
  stepper: TensorHolder;
  state: TrainState;
  beside: ModelFilesOptions;
}

/**
 * The model, the state of its training, and where that stands, of a run of one process.
 *
 * @param read - reads a tensor's numbers; unless given, as they are when they are written
 */
export function checkpointContents(parts: CheckpointParts, read: ReadPart = readPart): DirectoryContents {
  const model = modelsOf(parts, ({ held }, part) => read(held, part));
  const optimizer = savedOf(parts, 'state').map((saved) => pieceOf(saved, 0, read));
  return { ...model, tensors: { ...model.tensors, optimizer } };
}

/** Files of a checkpoint that one of several processes writes. */
export interface SharedContents {
  /** Of rank 0 alone. */
  texts: Record<string, string>;
  /** By path without the ending: made of what this process holds. */
  files: Record<string, TensorToWrite[]>;
  /** The same, made of the {@link passingName} that all have written; null where none need be. */
  assembled: ((weights: TensorPieces) => Record<string, TensorToWrite[]>) | null;
}

/** Name of files in which shares of weights lie until models are made of them. */
export const passingName = 'weights';

/**
 * The same of a run of several: whole tensors are divided among the processes, of shares each writes its own. What
 * `transformers` opens is whole: where weights lie in shares, it is made of their files, tensor by tensor.
 */
export function sharedContents(
  parts: CheckpointParts,
  place: { rank: number; size: number },
  read: ReadPart = readPart,
): SharedContents {
  const { rank, size } = place;
  const loads = new Loads(size);
  const pieces = (tensors: readonly SavedTensor[]) => {
    const ours = tensors.filter(({ spread, format, shape, range }) =>
      spread === 'same' ? loads.next(byteLengthOf({ dtype: format, shape })) === rank : range.count > 0,
    );
    return ours.map((saved) => pieceOf(saved, rank, read));
  };
  const files = (name: string, tensors: TensorToWrite[]) => ({ [numberedFile(name, rank, size)]: tensors });
  const inShares = [...savedTensors(parts.stepper).values()].some(({ spread }) => spread === 'shares');
  const models = modelsOf(parts, ({ held }, part) => read(held, part));
  if (!inShares) {
    const { texts, ours } = sharesOf(models, place, loads);
    return { texts, files: { ...ours, ...files('optimizer', pieces(savedOf(parts, 'state'))) }, assembled: null };
  }
  return {
    texts: sharesOf(models, place, new Loads(size)).texts,
    files: {
      ...files(passingName, pieces([...savedOf(parts, 'parameter'), ...savedOf(parts, 'mean')])),
      ...files('optimizer', pieces(savedOf(parts, 'state'))),
    },
    assembled: (weights) => {
      const whole = modelsOf(parts, ({ name }, { offset, shape }) =>
        weights.read(name, { first: offset, count: sizeOf(shape) }),
      );
      return sharesOf(whole, place, new Loads(size)).ours;
    },
  };
}

/** Directories that `transformers` opens, with the text of the state. */
function modelsOf({ stepper, state, beside }: CheckpointParts, read: ReadPart<SavedTensor>): DirectoryContents {
  const saved = savedTensors(stepper);
  const { texts, tensors } = modelContents(stepper.model, saved, { ...beside, read });
  const means = emaContents(stepper, saved, hasUpdated(state), { ...beside, read });
  return {
    texts: { ...texts, ...means?.texts, 'state.json': `${JSON.stringify(state, null, 2)}\n` },
    tensors: { ...tensors, ...means?.tensors },
  };
}

const savedOf = ({ stepper }: CheckpointParts, kind: SavedTensor['kind']): SavedTensor[] =>
  [...savedTensors(stepper).values()].filter((saved) => saved.kind === kind);

/** What a process holds of a tensor, to be written. */
function pieceOf(
  { name, format, shape, held, range, spread }: SavedTensor,
  rank: number,
  read: ReadPart,
): TensorToWrite {
  const own = spread === 'shares' ? [range.count] : shape;
  return {
    name,
    dtype: format,
    shape: own,
    data: () => read(held, { shape: own, offset: 0 }),
    ...(spread === 'shares' && { piece: { shape, first: range.first } }),
    ...(spread === 'own' && { piece: { shape, first: 0, rank } }),
  };
}

/** Divides models' files among processes: as many as there are processes, more where they would be too large. */
function sharesOf(
  { texts, tensors }: DirectoryContents,
  { rank, size }: { rank: number; size: number },
  loads: Loads,
): { texts: Record<string, string>; ours: Record<string, TensorToWrite[]> } {
  const ours: Record<string, TensorToWrite[]> = {};
  const indices: Record<string, string> = {};
  for (const [path, list] of Object.entries(tensors)) {
    const limit = Math.min(defaultShardBytes, Math.ceil(bytesOf(list) / size));
    const { files, index } = shardsOf(list, path, limit);
    if (index) indices[`${path}.safetensors.index.json`] = index;
    for (const [file, shard] of files) if (loads.next(bytesOf(shard)) === rank) ours[file] = [...shard];
  }
  return { texts: { ...texts, ...indices }, ours };
}

const bytesOf = (tensors: readonly TensorToWrite[]): number =>
  tensors.reduce((sum, tensor) => sum + byteLengthOf(tensor), 0);

/** Gives work to whoever has least. */
class Loads {
  readonly #bytes: number[];

  constructor(size: number) {
    this.#bytes = Array<number>(size).fill(0);
  }

  /** Whose the next so many bytes are. */
  next(bytes: number): number {
    const rank = this.#bytes.indexOf(Math.min(...this.#bytes));
    this.#bytes[rank] = (this.#bytes[rank] as number) + bytes;
    return rank;
  }
}
