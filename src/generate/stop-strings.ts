import { HadalError } from '../core/errors.js';

/**
 * Ends a growing text where the first of some strings is complete. Text that may yet become one of them is held back, so
 * what comes out does not depend on the pieces in which the text came in.
 */
export class StopStrings {
  #held = '';
  #isStopped = false;

  /** @throws HadalError HADAL_ERR_CONFIG for strings that no text can hold */
  constructor(private readonly stops: readonly string[]) {
    for (const stop of stops) {
      if (typeof stop === 'string' && stop !== '' && stop.isWellFormed()) continue;
      throw new HadalError(
        'HADAL_ERR_CONFIG',
        `[generate] option 'stop' expected strings of at least one character, got ${JSON.stringify(stop)}`,
      );
    }
  }

  /** Whether a string was found; everything from its beginning on is dropped. */
  get isStopped(): boolean {
    return this.#isStopped;
  }

  /** @returns what is certain to stand before any of the strings */
  push(text: string): string {
    if (this.#isStopped) return '';
    const whole = this.#held + text;
    const found = this.#firstComplete(whole);
    this.#isStopped = found !== null;
    const end = found ?? whole.length - this.#longestBeginning(whole);
    this.#held = whole.slice(end);
    return whole.slice(0, end);
  }

  /** The text has ended: what was held back. */
  flush(): string {
    const rest = this.#isStopped ? '' : this.#held;
    this.#held = '';
    return rest;
  }

  /** Where the string begins that is complete first, the longest of those that end together. */
  #firstComplete(text: string): number | null {
    let found: { start: number; end: number } | null = null;
    for (const stop of this.stops) {
      const start = text.indexOf(stop);
      const end = start + stop.length;
      if (start < 0 || (found && (end > found.end || (end === found.end && start > found.start)))) continue;
      found = { start, end };
    }
    return found?.start ?? null;
  }

  /** Length of the longest end of the text that some string begins with. */
  #longestBeginning(text: string): number {
    const most = Math.min(text.length, Math.max(0, ...this.stops.map((stop) => stop.length - 1)));
    for (let length = most; length > 0; length--) {
      const end = text.slice(-length);
      if (this.stops.some((stop) => stop.length > length && stop.startsWith(end))) return length;
    }
    return 0;
  }
}
