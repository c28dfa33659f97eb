// What the processes of a run tell each other: values by key, kept by the process that hosts the run.
import { HadalError } from '../core/errors.js';

/** The most that is kept. */
export interface StoreLimits {
  keys: number;
  /** Characters of keys and values together. */
  characters: number;
}

interface Waiter {
  keys: readonly string[];
  reply: (values: string[]) => void;
}

/** Values by key, and those that wait for them. */
export class KeyValueStore {
  readonly #values = new Map<string, string>();
  readonly #waiters = new Set<Waiter>();
  #characters = 0;

  constructor(readonly limits: StoreLimits = { keys: 2 ** 16, characters: 2 ** 26 }) {}

  /** @throws HadalError HADAL_ERR_COMM when there is no room */
  set(key: string, value: string): void {
    const before = this.#values.get(key);
    const characters = this.#characters + value.length + (before === undefined ? key.length : -before.length);
    const keys = this.#values.size + (before === undefined ? 1 : 0);
    if (keys > this.limits.keys || characters > this.limits.characters) {
      throw new HadalError(
        'HADAL_ERR_COMM',
        `[dist] expected at most ${this.limits.keys} keys and ${this.limits.characters} characters in the store, got ${keys} and ${characters}`,
      );
    }
    this.#characters = characters;
    this.#values.set(key, value);
    for (const waiter of this.#waiters) {
      if (waiter.keys.includes(key)) this.#serve(waiter);
    }
  }

  /**
   * Replies with the values of all keys as soon as they are there.
   *
   * @returns what ends the waiting
   */
  get(keys: readonly string[], reply: (values: string[]) => void): () => void {
    const waiter = { keys, reply };
    this.#waiters.add(waiter);
    this.#serve(waiter);
    return () => this.#waiters.delete(waiter);
  }

  /** Adds to a number, which begins as 0. @returns the sum. @throws HadalError HADAL_ERR_COMM when the value is no number */
  add(key: string, by: number): number {
    const before = Number(this.#values.get(key) ?? '0');
    const sum = before + by;
    if (!Number.isSafeInteger(sum)) {
      throw new HadalError(
        'HADAL_ERR_COMM',
        `[dist] expected a whole number in the store's '${key}', got another value`,
      );
    }
    this.set(key, String(sum));
    return sum;
  }

  /** @returns how many there were */
  delete(keys: readonly string[]): number {
    let count = 0;
    for (const key of keys) {
      const value = this.#values.get(key);
      if (value === undefined) continue;
      this.#characters -= key.length + value.length;
      this.#values.delete(key);
      count++;
    }
    return count;
  }

  /** Of some keys, those that are not there. */
  missing(keys: readonly string[]): string[] {
    return keys.filter((key) => !this.#values.has(key));
  }

  /** Forgets all values. Those that wait go on waiting. */
  clear(): void {
    this.#values.clear();
    this.#characters = 0;
  }

  #serve(waiter: Waiter): void {
    const values = waiter.keys.map((key) => this.#values.get(key));
    if (!values.every((value) => value !== undefined)) return;
    this.#waiters.delete(waiter);
    waiter.reply(values);
  }
}
