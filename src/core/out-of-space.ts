/** Whether an error of the system says that a disk, or what one may use of it, is full. */
export function isOutOfSpace(error: unknown): boolean {
  const { code } = (error ?? {}) as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT';
}
