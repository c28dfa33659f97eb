import { z } from 'zod';

/** A whole number from 1 on that fits an int32. */
export const count = z
  .number()
  .int()
  .positive()
  .max(2 ** 31 - 1);

/** A whole number from 0 on. */
export const countOrZero = z.number().int().nonnegative();
