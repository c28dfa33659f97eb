import type { DType } from '../core/dtype.js';
import type { Shape } from '../core/shape.js';
import type { Value } from './graph.js';

/** Attributes of a node: fixed at trace time. What varies between steps is a Value, never an attribute. */
export type Attrs = Readonly<Record<string, unknown>>;

/** Inputs of a node; an optional input that is not given is null. An op's definition narrows this to a tuple. */
export type Inputs = readonly (Value | null)[];

/** Outputs of a node. An op's definition narrows this to a tuple. */
export type Outputs = readonly Value[];

type Nullable<T extends readonly unknown[]> = { readonly [K in keyof T]: Value | null };
type Flags<T extends readonly unknown[]> = { readonly [K in keyof T]: boolean };

/** Type of one output. */
export interface TypeSpec {
  shape: Shape;
  dtype: DType;
  /** int32 [1] Value, or which output of the same node, that says how many of dim 0's entries are in use. */
  extent?: Value | { output: number } | null;
}

/** What running a node once takes. */
export interface Cost {
  flops: number;
  bytesRead: number;
  bytesWritten: number;
}

/** A native kernel call; params are packed by name into the kernel's struct, buffers follow its declared order. */
export interface KernelCall {
  kernel: string;
  params: Readonly<Record<string, number | DType | readonly number[] | readonly DType[] | Uint8Array>>;
  buffers: readonly (Value | null)[];
}

/** What a gradient rule is given. */
export interface VjpContext<A, I extends Inputs = Inputs, O extends Outputs = Outputs> {
  inputs: I;
  outputs: O;
  /** Gradient of the loss by each output; null where none flows. At least one is not null. */
  gradients: Nullable<O>;
  attrs: A;
  /** Which inputs' gradients are wanted; a rule may return null for the others. */
  needs: Flags<I>;
}

/** All that is known of an op, on one screen. */
export interface OpDefinition<A = Attrs, I extends Inputs = Inputs, O extends Outputs = Outputs> {
  readonly name: string;
  /** Types of the outputs; throws HADAL_ERR_SHAPE / HADAL_ERR_DTYPE naming op, expected, got. */
  infer(inputs: I, attrs: A): TypeSpec[];
  /**
   * Vector-Jacobian product: a gradient per input, built of ops; autodiff sums it over broadcast dims and casts it to
   * the input's dtype. Absent: differentiated through `lower`, or not differentiable.
   */
  vjp?(context: VjpContext<A, I, O>): readonly (Value | null)[];
  /** Outputs whose gradients `vjp` can take (default: all). A gradient into another one goes through `lower`. */
  readonly vjpOutputs?: readonly number[];
  /** The same mathematics in simpler ops, outputs in the same order. Used where the op itself has no `vjp`. */
  lower?(inputs: I, attrs: A): readonly Value[];
  /** Default: no flops, all inputs read, all outputs written. */
  cost?(inputs: I, outputs: O, attrs: A): Cost;
  /** The kernel call that computes it. Absent for sources and views. */
  kernel?(inputs: I, outputs: O, attrs: A): KernelCall;
  /** Computes each output element from the same element of (broadcast) inputs. */
  readonly isElementwise?: boolean;
  /** Output 0 is input 0's memory under another shape; costs nothing. */
  readonly isView?: boolean;
  /** A source: value comes from outside (input, state slot, constant). */
  readonly isSource?: boolean;
  /** The same op giving its output `index` in another dtype, as attributes; null where it cannot. Absent: it never can. */
  retype?(attrs: A, index: number, dtype: DType): A | null;
  /** Inputs that mixed precision gives it in 16 bits; 'follow': all floats, once one is. Absent: it stays in fp32. */
  readonly narrow?: readonly number[] | 'follow';
  /** Inputs that mixed precision leaves to be computed in fp32, with the node that computes them. */
  readonly precise?: readonly number[];
  /** Output 0 plus `addend`, added while it is written, in `dtype`; null where it cannot. */
  plus?(addend: Value, inputs: I, attrs: A, dtype: DType): Value | null;
  /** This op where its first input is a + b: its outputs, and the sum, in one pass over memory. */
  ofSum?(a: Value, b: Value, inputs: I, attrs: A): { outputs: readonly Value[]; sum: Value };
  /**
   * This op where its input `index` is a · b ([..., M, R] · [..., R, N]), without that product: its outputs, null for those
   * that it does not have then; null where it needs the product.
   */
  ofProduct?(index: number, a: Value, b: Value, inputs: I, attrs: A): readonly (Value | null)[] | null;
  /**
   * How the outputs are computed anew from one of them, bit for bit, by what reads that `output` and these `inputs` alone.
   */
  readonly restore?: {
    readonly output: number;
    readonly inputs: readonly number[];
    apply(kept: Value, inputs: I, attrs: A): readonly Value[];
  };
  /**
   * It takes a list of tensors and gives an output for each. Calls whose keys are equal may be one: with these attributes,
   * their tensors in a row, `most` at most.
   */
  readonly join?: {
    readonly most: number;
    key(attrs: A): string;
    attrs(calls: readonly A[]): A;
    /** Whether a call is to be made at once, alone. */
    isUrgent(attrs: A): boolean;
  };
  /** Pairs [output, input]: the output may take over the input's buffer when nobody else needs it. */
  readonly inPlace?: readonly (readonly [output: number, input: number])[];
}
