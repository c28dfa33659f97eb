// Pieces of tensors in safetensors files: what the metadata of a file says of them.
import { z } from 'zod';
import { HadalError } from '../core/errors.js';
import { parseJson } from '../core/json.js';
import type { Shape } from '../core/shape.js';

/** Which part of a tensor one of the same name in a file is. */
export interface PieceOf {
  /** Of the whole tensor. */
  readonly shape: Shape;
  /** Its first element in the whole one, row-major. */
  readonly first: number;
  /** There where each of several processes has a whole tensor of its own: which one this is. */
  readonly rank?: number | undefined;
}

const key = 'hadal.pieces';
const natural = z.number().int().nonnegative();
const piecesSchema = z.record(
  z.string(),
  z.object({ shape: z.array(natural), first: natural, rank: natural.optional() }),
);

/** Fields of a file's metadata. */
export function metadataOfPieces(pieces: readonly (readonly [string, PieceOf])[]): Record<string, string> {
  return pieces.length > 0 ? { [key]: JSON.stringify(Object.fromEntries(pieces)) } : {};
}

/** What a file says of its tensors; those that it does not name are whole. @throws HadalError HADAL_ERR_FORMAT */
export function piecesIn(path: string, metadata: Readonly<Record<string, string>>): Map<string, PieceOf> {
  const text = metadata[key];
  if (text === undefined) return new Map();
  const what = `${key} of ${path}`;
  const parsed = piecesSchema.safeParse(parseJson(text, { part: 'pieces', what }));
  if (parsed.success) return new Map(Object.entries(parsed.data));
  throw new HadalError('HADAL_ERR_FORMAT', `[pieces] expected {name: {shape, first}} in ${what}, got something else`);
}
