/**
 * Turns callbacks into an async iteration: yields what `work` reports while it runs, and returns its result.
 *
 * @param work - given a function to report with
 */
export async function* reported<E, T>(work: (report: (event: E) => void) => Promise<T>): AsyncGenerator<E, T> {
  const events: E[] = [];
  let wake = () => {};
  let done = false;
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
    else await new Promise<void>((resolve) => (done ? resolve() : (wake = resolve)));
  }
  return await result;
}
