import type { Precision, PrecisionDType } from '../../src/passes/narrow.js';

/** One number format for all layers. */
export const uniformPrecision = (dtype: PrecisionDType): Precision => ({ dtype, layers: [], fp8: { scale: 'float' } });
