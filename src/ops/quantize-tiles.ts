// What remains of numbers that products take in fp8 (E4M3) with one scale a tile. Formula: native/ops/quantize-tiles.h.
// R rows, N columns, G groups of rows
import { type DType, isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { sizeOf } from '../core/shape.js';
import type { Value } from '../graph/graph.js';
import { defineOp, expectDType, expectRank } from './define-op.js';

/** How tiles are cut and scaled. */
export interface TileOptions {
  /** Rows and columns of a tile; those at the ends are smaller. */
  tile: readonly [rows: number, columns: number];
  /** What a tile is divided by: its largest magnitude / 448, or the next power of two. */
  scale: 'float' | 'power-of-two';
  /** Default: that of x. */
  outputDType?: DType;
}

type TileAttrs = Readonly<Required<TileOptions>>;

const quantizeTilesOp = defineOp<TileAttrs, [x: Value, offsets: Value | null], [y: Value]>({
  name: 'quantize-tiles',
  inPlace: [[0, 0]],
  retype: (attrs, _index, outputDType) => (isFloat(outputDType) ? { ...attrs, outputDType } : null),
  infer([x, offsets], { outputDType }) {
    const op = 'quantize-tiles';
    expectDType(op, 'x', x, 'float');
    if (x.shape.length < 2 || (x.extent && !offsets)) {
      const why = x.extent ? 'all of x in use, or the offsets of its groups' : 'x of rank 2 or more';
      throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected ${why}, got ${x.type}`);
    }
    if (offsets) {
      expectRank(op, 'x', x, 2);
      expectRank(op, 'offsets', offsets, 1);
      expectDType(op, 'offsets', offsets, 'int32');
    }
    return [{ shape: x.shape, dtype: outputDType, extent: x.extent }];
  },
  // Straight through: rounding has no slope of its own (Bengio et al. 2013, arXiv:1308.3432).
  vjp: ({ gradients: [dy] }) => [dy, null],
  cost: ([x], [y]) => ({ flops: 10 * x.size, bytesRead: x.bytes, bytesWritten: y.bytes }),
  kernel: ([x, offsets], [y], { tile: [tileRows, tileColumns], scale }) => ({
    kernel: 'quantize-tiles',
    params: {
      groups: offsets ? (offsets.shape[0] as number) - 1 : sizeOf(x.shape.slice(0, -2)),
      rows: sizeOf(x.shape.slice(0, -1)),
      columns: x.shape.at(-1) as number,
      tileRows,
      tileColumns,
      powerOfTwo: Number(scale === 'power-of-two'),
      dtypeX: x.dtype,
      dtypeY: y.dtype,
    },
    buffers: [x, offsets, y],
  }),
});

/**
 * x rounded to fp8 (E4M3) by tiles, and back: s · E4M3(x / s), a scale s a tile. DeepSeek-V3, arXiv:2412.19437, §3.3.2.
 * Gradients pass straight through.
 *
 * @param x - [..., R, N], float; each matrix is cut into tiles of its own
 * @param offsets - int32 [G + 1]: tiles begin anew with each group of rows of a two-dimensional x, row offsets[e] on;
 *   rows of no group are not written
 * @returns the shape of x. With scales that are powers of two it is exact in bf16, else in fp32
 * @throws HadalError HADAL_ERR_SHAPE, HADAL_ERR_DTYPE
 */
export function quantizeTiles(x: Value, options: TileOptions, offsets: Value | null = null): Value {
  return quantizeTilesOp.apply([x, offsets], { outputDType: x.dtype, ...options })[0];
}
