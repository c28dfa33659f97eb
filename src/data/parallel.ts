import type { Document } from './sources.js';

/** Texts that travel to a worker together, so that messages stay few. */
export interface DocumentGroup {
  readonly texts: string[];
  /** Which source each text is of. */
  readonly sources: number[];
  /** Number of the first text, counted over all documents. */
  readonly first: number;
}

const groupChars = 1 << 18;

/** Groups documents into about 256 Ki characters each. @param skip - documents at the beginning that are left out */
export async function* groupDocuments(documents: AsyncIterable<Document>, skip = 0): AsyncGenerator<DocumentGroup> {
  let group: DocumentGroup = { texts: [], sources: [], first: skip };
  let chars = 0;
  let read = 0;
  for await (const { text, source } of documents) {
    if (read++ < skip) continue;
    group.texts.push(text);
    group.sources.push(source);
    chars += text.length;
    if (chars < groupChars) continue;
    yield group;
    group = { texts: [], sources: [], first: read };
    chars = 0;
  }
  if (group.texts.length > 0) yield group;
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
