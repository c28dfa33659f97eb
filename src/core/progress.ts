/**
 * Turns callbacks into an async iteration: yields what `work` reports while it runs, and returns its result.
 *
 * @param work - given a function to report with
 */
export async function* reported<E, T>(work: (report: (event: E) => void) => Promise<T>): AsyncGenerator<E, T> {
  const events: E[] = [];
  let wake = () => {};
  let done = false;
  const asleep = () =>
    new Promise<void>((resolve) => {
      wake = resolve;
      if (done) resolve();
    });
  const result = work((event) => {
    events.push(event);
    wake();
  }).finally(() => {
    done = true;
    wake();
  });
  result.catch(() => {}); // thrown below, when everything reported before it was yielded
  while (!done || events.length > 0) {
    const next = events.shift();
    if (next !== undefined) yield next;
    else await asleep();
  }
  return await result;
}
