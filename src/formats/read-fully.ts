import type { FileHandle } from 'node:fs/promises';

const readChunkBytes = 1 << 30; // a single read() is limited to 2 GiB

/**
 * Fills `bytes` from a position of a file.
 *
 * @returns the bytes read: fewer than asked for where the file ends before
 */
export async function readFully(handle: FileHandle, bytes: Uint8Array, position: number): Promise<number> {
  let done = 0;
  while (done < bytes.byteLength) {
    const length = Math.min(bytes.byteLength - done, readChunkBytes);
    const { bytesRead } = await handle.read(bytes, done, length, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return done;
}
