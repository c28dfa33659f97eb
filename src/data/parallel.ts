import type { Document } from './sources.js';

/** Texts that travel to a worker together, so that messages stay few. */
export interface DocumentGroup {
  readonly texts: string[];
  /** Number of the first text, counted over all documents. */
  readonly first: number;
}

const groupChars = 1 << 18;

/** Groups documents into about 256 Ki characters each. */
export async function* groupDocuments(documents: AsyncIterable<Document>): AsyncGenerator<DocumentGroup> {
  let texts: string[] = [];
  let first = 0;
  let chars = 0;
  for await (const { text } of documents) {
    texts.push(text);
    chars += text.length;
    if (chars < groupChars) continue;
    yield { texts, first };
    first += texts.length;
    texts = [];
    chars = 0;
  }
  if (texts.length > 0) yield { texts, first };
}

/** Results of `run` in the order of the items, with up to `concurrency` under way. */
export async function* mapInOrder<T, R>(
  items: AsyncIterable<T>,
  concurrency: number,
  run: (item: T) => Promise<R>,
): AsyncGenerator<R> {
  const underWay: Promise<R>[] = [];
  for await (const item of items) {
    const result = run(item);
    result.catch(() => {}); // reported when its turn comes
    underWay.push(result);
    if (underWay.length >= concurrency) yield await (underWay.shift() as Promise<R>);
  }
  for (const result of underWay) yield await result;
}
