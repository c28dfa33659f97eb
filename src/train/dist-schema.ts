// Configuration of training in several processes.
import { z } from 'zod';
import { count, countOrZero, share } from '../core/schema.js';

const compressionSchema = z.strictObject({
  kind: z
    .enum(['none', 'fp16', 'bf16', 'int8', 'topk', 'powersgd'])
    .default('none')
    .describe(
      'How gradients are sent: in fp32, rounded to 16 bits, as 8-bit integers in blocks with a scale each, the greatest alone with their places, or each matrix as a product of two of low rank. All but `none` change the result.',
    ),
  errorFeedback: z
    .boolean()
    .nullable()
    .default(null)
    .describe(
      'Add what was not sent of a gradient to the next one, at the price of the gradients’ memory once more; null: for all kinds but `fp16` and `bf16`.',
    ),
  density: share.gt(0).default(0.01).describe('`topk`: share of the numbers that are sent.'),
  rank: count.default(4).describe('`powersgd`: columns of the two matrices.'),
  startStep: countOrZero
    .default(0)
    .describe(
      'Updates before it begins, whose gradients are sent in fp32: the first gradients are those that compress worst.',
    ),
});

const serverSchema = z.strictObject({
  staleness: countOrZero
    .default(8)
    .describe(
      'The most updates that are made between reading the weights and using the gradient computed with them; 0: as if all processes kept step.',
    ),
  lease: z
    .number()
    .positive()
    .default(10)
    .describe('Seconds without a sign of life after which a worker is given up and its rows are another’s.'),
  pushDtype: z
    .enum(['fp32', 'bf16'])
    .default('fp32')
    .describe('Number format in which gradients are sent to the server.'),
});

/** Schema of `dist`. How many processes there are is the launcher's to say, never the configuration's. */
export const distSchema = z.strictObject({
  mode: z
    .enum(['all-reduce', 'parameter-server'])
    .default('all-reduce')
    .describe(
      'How processes train together: in step, summing their gradients; or each at its own pace, with a server that has the weights (`hadal launch --servers 1`).',
    ),
  server: serverSchema.prefault({}).describe('Of `parameter-server`.'),
  backend: z
    .enum(['auto', 'gloo', 'nccl'])
    .default('auto')
    .describe('What carries collectives: Gloo over TCP on CPUs, NCCL on GPUs; `auto`: by the device.'),
  timeout: z
    .number()
    .positive()
    .default(300)
    .describe('Seconds that a collective waits for the other processes before the run fails, naming those missing.'),
  bucketMiB: z
    .number()
    .positive()
    .default(4)
    .describe('Gradients that are summed over the processes in one call, as soon as the last of them is computed.'),
  overlap: z
    .boolean()
    .default(true)
    .describe('Sum gradients while the backward pass goes on; false: after it, to compare.'),
  zero: countOrZero
    .max(3)
    .default(0)
    .describe(
      'ZeRO stage: what each process holds a share of only. 0: nothing; 1: state of the optimizer; 2: gradients, too; 3: weights, too.',
    ),
  compression: compressionSchema.prefault({}).describe('How gradients are sent to the other processes.'),
});
