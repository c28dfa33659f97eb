import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { abortOnInterrupt } from '../../src/cli/interrupt.js';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['performance'] });
  vi.spyOn(process, 'exit').mockImplementation(() => undefined as never);
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

it('aborts at the first Ctrl-C, takes an echo for the same, ends the process at the second', () => {
  const onFirst = vi.fn();
  using signal = abortOnInterrupt(onFirst);
  expect(signal.aborted).toBe(false);
  process.emit('SIGINT');
  expect(signal.aborted).toBe(true);
  vi.advanceTimersByTime(100);
  process.emit('SIGINT');
  expect(process.exit).not.toHaveBeenCalled();
  vi.advanceTimersByTime(1000);
  process.emit('SIGINT');
  expect(process.exit).toHaveBeenCalledWith(130);
  expect(onFirst).toHaveBeenCalledTimes(1);
});

it('listens no longer than it lives', () => {
  const before = process.listenerCount('SIGINT');
  {
    using signal = abortOnInterrupt(() => {});
    expect(process.listenerCount('SIGINT')).toBe(before + 1);
    expect(signal.aborted).toBe(false);
  }
  expect(process.listenerCount('SIGINT')).toBe(before);
});
