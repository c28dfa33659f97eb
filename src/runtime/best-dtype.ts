import { loadAddon } from '../addon/addon.js';
import type { Device } from './device.js';

/**
 * Number format that a device, or this machine's processor, trains fastest in: 'bf16' where it has bf16 products, with kernels
 * allowed to use them.
 */
export function bestDType(device?: Device): 'fp32' | 'bf16' {
  if (device && device.target.backend !== 'cpu') return 'bf16';
  return loadAddon().features().isa === 'avx512bf16' ? 'bf16' : 'fp32';
}
