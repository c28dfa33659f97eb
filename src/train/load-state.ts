// The state of a training from a checkpoint of as many processes as there were, at whatever ZeRO stage.
import { HadalError } from '../core/errors.js';
import { sizeOf } from '../core/shape.js';
import { fromFloat32, toFloat32 } from '../formats/convert.js';
import { TensorPieces } from '../formats/tensor-pieces.js';
import { isOfCompression, type SavedTensor } from './saved-tensors.js';

/**
 * Reads what this process holds of the state. What compression left of gradients is kept in sum: at another number of
 * processes each gets an equal part.
 *
 * @returns what the user should know
 * @throws HadalError HADAL_ERR_CHECKPOINT where state is missing or of another size, HADAL_ERR_FORMAT, HADAL_ERR_IO
 */
export async function loadState(
  checkpoint: string,
  saved: ReadonlyMap<string, SavedTensor>,
  { rank, size }: { rank: number; size: number },
): Promise<string[]> {
  await using pieces = await TensorPieces.open(checkpoint, 'optimizer');
  const found = pieces.tensors;
  for (const tensor of saved.values()) {
    const { name, kind, format, shape, held, range, spread } = tensor;
    const entry = found.get(name);
    const isOwn = spread === 'own';
    const fits = entry?.dtype === format && sizeOf(entry.shape) === sizeOf(shape) && isOwn === entry.owners > 0;
    // Compression begins anew where it is another.
    if (kind !== 'state' || (!fits && isOfCompression(name))) continue;
    if (!fits) {
      const got = entry ? `${entry.dtype} of ${sizeOf(entry.shape)}` : 'none';
      throw new HadalError(
        'HADAL_ERR_CHECKPOINT',
        `[checkpoint] ${checkpoint} expected optimizer state '${name}' as ${format} of ${sizeOf(shape)}, found ${got}; resume with the run's own optimizer`,
      );
    }
    if (isOwn) await held.write(await ownOf(pieces, tensor, entry.owners, { rank, size }));
    else if (range.count > 0) await held.write(await pieces.read(name, range));
  }
  return notesOn([...saved.keys()], [...found.keys()]);
}

/** This process's own, or its part of the sum of those of all. */
async function ownOf(
  pieces: TensorPieces,
  { name, format, range }: SavedTensor,
  owners: number,
  { rank, size }: { rank: number; size: number },
): Promise<Uint8Array> {
  if (owners === size) return pieces.read(name, range, rank);
  const sum = new Float64Array(range.count);
  for (let owner = 0; owner < owners; owner++) {
    const one = toFloat32(format, await pieces.read(name, range, owner));
    for (const [i, x] of one.entries()) sum[i] = (sum[i] as number) + x;
  }
  return fromFloat32(
    format,
    Float32Array.from(sum, (x) => x / size),
  );
}

/** What compression of gradients does not go on with. */
function notesOn(expected: readonly string[], found: readonly string[]): string[] {
  const [here, there] = [expected, found].map((names) => names.filter(isOfCompression)) as [string[], string[]];
  const isNew = here.some((name) => !there.includes(name));
  const isDropped = there.some((name) => !here.includes(name));
  if (isNew && isDropped)
    return ['gradients are compressed otherwise than in the checkpoint: what was left of them is dropped'];
  if (isNew)
    return [
      'the checkpoint is of a run without this compression of gradients, which begins with nothing left of earlier ones',
    ];
  return isDropped ? ['gradients are no longer compressed: what was left of earlier ones is dropped'] : [];
}
