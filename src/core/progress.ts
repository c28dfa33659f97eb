/**
 * Turns callbacks into an async iteration: yields what `work` reports while it runs, and returns its result. Leaving the
 * iteration aborts the work and waits for its end.
 *
 * @param work - given a function to report with and a signal to obey
 * @param signal - aborts the work, too
 */
export async function* reported<E, T>(
  work: (report: (event: E) => void, signal: AbortSignal) => Promise<T>,
  signal?: AbortSignal,
): AsyncGenerator<E, T> {
  const left = new AbortController();
  const events: E[] = [];
  let wake = () => {};
  let done = false;
  const asleep = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
      if (done) resolve();
    });
  const report = (event: E) => {
    events.push(event);
    wake();
  };
  const result = work(report, signal ? AbortSignal.any([signal, left.signal]) : left.signal).finally(() => {
    done = true;
    wake();
  });
  result.catch(() => {}); // thrown below, when everything reported before it was yielded
  try {
    while (!done || events.length > 0) {
      const next = events.shift();
      if (next !== undefined) yield next;
      else await asleep();
    }
    return await result;
  } finally {
    left.abort();
    await result.catch(() => {});
  }
}
