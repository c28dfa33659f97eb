import type { DType } from '../core/dtype.js';
import { isFloat } from '../core/dtype.js';
import { HadalError } from '../core/errors.js';
import { graphOf, type Value } from '../graph/graph.js';
import type { Inputs, OpDefinition, Outputs } from '../graph/op.js';

/** An op that can be applied: `const [y, rstd] = rmsNormOp.apply([x, weight], { eps })`. */
export interface Op<A extends object, I extends Inputs = Inputs, O extends Outputs = Outputs>
  extends OpDefinition<A, I, O> {
  apply(inputs: I, attrs: A): O;
}

const registry = new Map<string, OpDefinition>();

/**
 * Makes an op of its definition and lists it (tests reflect over the list). Type arguments: attributes, input tuple
 * (`Value | null` where optional), output tuple.
 */
export function defineOp<A extends object, I extends Inputs, O extends Outputs>(
  definition: OpDefinition<A, I, O>,
): Op<A, I, O> {
  const op: Op<A, I, O> = { ...definition, apply: (inputs, attrs) => graphOf(inputs).add(op, inputs, attrs) };
  registry.set(op.name, op as unknown as OpDefinition);
  return op;
}

/** Every op that was defined so far, by name. */
export function definedOps(): ReadonlyMap<string, OpDefinition> {
  return registry;
}

/** Checks an input's rank. @throws HadalError HADAL_ERR_SHAPE */
export function expectRank(op: string, name: string, value: Value, rank: number): void {
  if (value.shape.length !== rank) {
    throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected ${name} of rank ${rank}, got ${value.type}`);
  }
}

/** Checks an input's shape; null entries match anything. @throws HadalError HADAL_ERR_SHAPE */
export function expectShape(op: string, name: string, value: Value, shape: readonly (number | null)[]): void {
  const fits = value.shape.length === shape.length && shape.every((dim, i) => dim === null || dim === value.shape[i]);
  if (!fits) {
    const expected = `[${shape.map((dim) => dim ?? '?').join(', ')}]`;
    throw new HadalError('HADAL_ERR_SHAPE', `[${op}] expected ${name} of shape ${expected}, got ${value.type}`);
  }
}

/** Checks an input's dtype. @throws HadalError HADAL_ERR_DTYPE */
export function expectDType(op: string, name: string, value: Value, dtype: DType | 'float'): void {
  if (dtype === 'float' ? !isFloat(value.dtype) : value.dtype !== dtype) {
    throw new HadalError('HADAL_ERR_DTYPE', `[${op}] expected ${name} of dtype ${dtype}, got ${value.type}`);
  }
}
