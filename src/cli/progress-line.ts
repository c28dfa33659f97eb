const everyMs = { terminal: 100, plain: 2000 };

/** One line of progress: redrawn in place on a terminal, else a line every two seconds. */
export interface ProgressLine extends Disposable {
  show(text: string): void;
  /** Takes the line away. */
  clear(): void;
}

/** Progress on a stream, usually stderr. */
export function progressLine(stream: NodeJS.WriteStream): ProgressLine {
  let shownMs = Number.NEGATIVE_INFINITY;
  let isShown = false;
  const clear = (): void => {
    if (isShown && stream.isTTY) stream.write('\r\x1b[0J');
    isShown = false;
  };
  return {
    show(text) {
      if (performance.now() - shownMs < (stream.isTTY ? everyMs.terminal : everyMs.plain)) return;
      shownMs = performance.now();
      isShown = true;
      stream.write(stream.isTTY ? `\r\x1b[0J${text.slice(0, (stream.columns ?? 80) - 1)}` : `${text}\n`);
    },
    clear,
    [Symbol.dispose]: clear,
  };
}
