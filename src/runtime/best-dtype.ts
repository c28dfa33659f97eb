import { loadAddon } from '../addon/addon.js';

/** Number format that this machine trains fastest in: 'bf16' where it has bf16 products, with kernels allowed to use them. */
export function bestDType(): 'fp32' | 'bf16' {
  return loadAddon().features().isa === 'avx512bf16' ? 'bf16' : 'fp32';
}
