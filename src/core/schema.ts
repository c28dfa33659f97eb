import { z } from 'zod';

/** A whole number from 1 on that fits an int32. */
export const count = z
  .number()
  .int()
  .positive()
  .max(2 ** 31 - 1);

/** A whole number from 0 on. */
export const countOrZero = z.number().int().nonnegative();

/** Such a number, or left to the machine. */
export const countOrAuto = z.union([count, z.literal('auto')], { error: 'a whole number from 1 on, or "auto"' });

/** From 0 up to, but not, 1. */
export const share = z.number().min(0).lt(1);

/** 0 or more. */
export const weight = z.number().nonnegative();
