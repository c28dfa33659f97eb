const doubleMs = 500;

/**
 * A signal that the first Ctrl-C (or SIGTERM) aborts; the second ends the process at once. Two within half a second are
 * one: `npm run` hands on a Ctrl-C that the terminal has sent to us as well.
 *
 * @param onFirst - told when the first one comes
 */
export function abortOnInterrupt(onFirst: () => void): AbortSignal & Disposable {
  const controller = new AbortController();
  let firstMs: number | null = null;
  const interrupt = (): void => {
    const now = performance.now();
    if (firstMs === null) {
      firstMs = now;
      controller.abort();
      onFirst();
    } else if (now - firstMs > doubleMs) {
      process.exit(130);
    }
  };
  const names = ['SIGINT', 'SIGTERM'] as const;
  for (const name of names) process.on(name, interrupt);
  return Object.assign(controller.signal, {
    [Symbol.dispose]: () => {
      for (const name of names) process.off(name, interrupt);
    },
  });
}
