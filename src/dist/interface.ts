// Addresses of this host.
import { lookup } from 'node:dns/promises';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { HadalError } from '../core/errors.js';

/**
 * The address that `HADAL_COMM_INTERFACE` names: an interface's (IPv4 where it has one) or an address of this host.
 *
 * @returns null when it is not set
 * @throws HadalError HADAL_ERR_CONFIG when this host has none such
 */
export function commAddress(name: string | undefined): string | null {
  if (!name) return null;
  const interfaces = networkInterfaces();
  const ofName = interfaces[name] ?? [];
  const address = ofName.find(({ family }) => family === 'IPv4') ?? ofName[0];
  if (address) return address.address;
  if (Object.values(interfaces).some((list) => list?.some((known) => known.address === name))) return name;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[dist] expected HADAL_COMM_INTERFACE to be one of ${Object.keys(interfaces).join(', ')} or an address of them, got '${name}'`,
  );
}

/** The address that a name stands for, here. @throws HadalError HADAL_ERR_CONFIG */
export async function addressOf(host: string): Promise<string> {
  if (isIP(host)) return host;
  try {
    return (await lookup(host)).address;
  } catch (error) {
    throw new HadalError('HADAL_ERR_CONFIG', `[dist] expected a host that is known, got '${host}'`, { cause: error });
  }
}

/** Whether only processes of this host reach the address. */
export function isLoopback(address: string): boolean {
  return /^127\.|^::1$|^::ffff:127\./.test(address);
}
