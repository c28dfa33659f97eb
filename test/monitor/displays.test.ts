import { describe, expect, it } from 'vitest';
import { evaluationLine } from '../../src/monitor/lines.js';
import { plainLog } from '../../src/monitor/plain.js';
import { bar, sparkline, TerminalDisplay } from '../../src/monitor/terminal.js';
import type { TrainEvent } from '../../src/train/events.js';
import { end, evaluation, start, step } from './events.js';

/** A clock that the test moves. */
class Clock {
  ms = 0;
  readonly now = (): number => this.ms;
}

/** What a terminal shows after what was written to it; understands what the display uses. */
class Screen {
  readonly lines: string[] = [''];
  row = 0;
  column = 0;

  constructor(readonly columns: number) {}

  write(text: string): void {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what a terminal is driven by
    for (const [token] of text.matchAll(/\x1b\[(\??\d*)([A-Za-z])|[\s\S]/gu)) this.#take(token);
  }

  #take(token: string): void {
    if (token === '\r') this.column = 0;
    else if (token === '\n') {
      this.row++;
      this.column = 0;
      this.lines[this.row] ??= '';
    } else if (token.endsWith('A') && token.length > 1) this.row -= Number(token.slice(2, -1));
    else if (token === '\x1b[0J') {
      this.lines[this.row] = (this.lines[this.row] as string).slice(0, this.column);
      this.lines.length = this.row + 1;
    } else if (token.length === 1) {
      const line = this.lines[this.row] as string;
      this.lines[this.row] = line.slice(0, this.column).padEnd(this.column) + token + line.slice(this.column + 1);
      this.column++;
      expect(this.column, `a line as wide as the terminal: ${this.lines[this.row]}`).toBeLessThan(this.columns);
    }
  }
}

function shown(columns: number, events: readonly (TrainEvent | number)[]): string {
  const clock = new Clock();
  const screen = new Screen(columns);
  using display = new TerminalDisplay(screen, clock.now);
  for (const event of events) {
    if (typeof event === 'number') clock.ms += event;
    else display.listen(event);
  }
  return screen.lines.join('\n');
}

const run: (TrainEvent | number)[] = [
  { type: 'prepare', phase: 'tokenizer', done: 10, total: 40 },
  200,
  { type: 'prepare', phase: 'data', done: 1000, total: 0 },
  200,
  start(),
  400,
  step(),
  40_000,
  step({ step: 101, loss: 5.5, lr: 1.5e-3 }),
  evaluation(),
];

describe('an evaluation', () => {
  it('tells the loss of the running means, where there are any', () => {
    expect(evaluationLine(evaluation())).not.toContain('means');
    expect(evaluationLine(evaluation({ emaEvalLoss: 4.25 }))).toBe(
      'eval   step 100: held-out loss 4.5000, of the running means 4.2500, 1.6543 bits/byte (32,768 tokens)',
    );
  });
});

describe('terminal display', () => {
  it('keeps what lasts and redraws the rest in place', () => {
    expect(shown(100, run)).toMatchInlineSnapshot(`
      "model  7.24 M parameters, 4.10 M active a token
      data   2.48 M tokens to train on, 131.1 k held out
      device cpu, 2 threads, avx512, fp32
      memory weights                    27.63 MiB
             gradients                   9.54 MiB
             optimizer                  55.26 MiB
             activations                362.4 MiB
             workspace                  19.07 MiB
             inputs, outputs, programs  976.6 KiB
             the process itself         114.4 MiB
             total                      589.3 MiB
             budget                     12.00 GiB
      run    runs/shallow-1
      eval   step 100: held-out loss 4.5000, 1.6543 bits/byte (32,768 tokens)
      ██████████▏─────────────────────────────   25 %  101/400
      loss 5.5000  5,123 tokens/s  ETA 2:00  balance 1.42  mtp 8.3211  norm 1.23  lr 1.5e-3  █▁"
    `);
    expect(shown(100, [...run, 200_000, step({ step: 400, loss: 4 }), end()])).toMatchInlineSnapshot(`
      "model  7.24 M parameters, 4.10 M active a token
      data   2.48 M tokens to train on, 131.1 k held out
      device cpu, 2 threads, avx512, fp32
      memory weights                    27.63 MiB
             gradients                   9.54 MiB
             optimizer                  55.26 MiB
             activations                362.4 MiB
             workspace                  19.07 MiB
             inputs, outputs, programs  976.6 KiB
             the process itself         114.4 MiB
             total                      589.3 MiB
             budget                     12.00 GiB
      run    runs/shallow-1
      eval   step 100: held-out loss 4.5000, 1.6543 bits/byte (32,768 tokens)
      ████████████████████████████████████████  100 %  400/400
      loss 4.0000  5,123 tokens/s  ETA 0:00  balance 1.42  mtp 8.3211  norm 1.23  lr 5.0e-5  █▃▁
      done   400 steps, 819.2 k tokens in 2:31; training loss 3.9000
             held-out loss 4.0100 (8.3178 before training), 1.5012 bits/byte
      "
    `);
  });

  it('leaves out what a narrow terminal has no room for', () => {
    const steps = run.filter((event) => typeof event === 'number' || event.type === 'step');
    expect(shown(30, [start(), ...steps].slice(1))).toMatchInlineSnapshot(`
      "███▎─────────   25 %  101/400
      loss 5.5000  5,123 tokens/s"
    `);
    expect(shown(14, steps)).toMatchInlineSnapshot(`
      " 25 % 101/400
      loss 5.5000"
    `);
  });

  it('shows the last of many quick steps', () => {
    const quick = Array.from({ length: 10 }, (_, i) => [step({ step: i + 1 }), 5]).flat();
    expect(shown(100, [...quick, end()])).toContain('10/400');
  });
});

describe('parts of the display', () => {
  it('draws a bar to an eighth of a cell', () => {
    expect([0, 0.5, 0.53125, 1, 7].map((share) => bar(share, 4))).toEqual(['────', '██──', '██▏─', '████', '████']);
  });
  it('draws the course of a loss', () => {
    expect(sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8)).toBe('█▇▆▅▄▃▂▁');
    expect(sparkline([4, 2, 4, 2, 1, 1], 3)).toBe('██▁');
    expect(sparkline([3, 3, Number.NaN], 8)).toBe('▄▄');
    expect(sparkline([], 8)).toBe('');
  });
});

describe('plain log', () => {
  const logged = (events: readonly (TrainEvent | number)[]): string[] => {
    const clock = new Clock();
    const lines: string[] = [];
    const listen = plainLog((line) => lines.push(line), clock.now);
    for (const event of events) {
      if (typeof event === 'number') clock.ms += event;
      else listen(event);
    }
    return lines;
  };

  it('writes every event that matters', () => {
    expect(logged([...run, end({ skippedSteps: 2, initialEvalLoss: null })]).join('\n')).toMatchInlineSnapshot(`
      "training the tokenizer 25 %
      tokenizing 1,000
      model  7.24 M parameters, 4.10 M active a token
      data   2.48 M tokens to train on, 131.1 k held out
      device cpu, 2 threads, avx512, fp32
      memory weights                    27.63 MiB
             gradients                   9.54 MiB
             optimizer                  55.26 MiB
             activations                362.4 MiB
             workspace                  19.07 MiB
             inputs, outputs, programs  976.6 KiB
             the process itself         114.4 MiB
             total                      589.3 MiB
             budget                     12.00 GiB
      run    runs/shallow-1
      step   1/400  loss 8.3178  5,123 tokens/s  ETA 2:40  balance 1.42  mtp 8.3211  norm 1.23  lr 5.0e-5
      step   101/400  loss 5.5000  5,123 tokens/s  ETA 2:00  balance 1.42  mtp 8.3211  norm 1.23  lr 1.5e-3
      eval   step 100: held-out loss 4.5000, 1.6543 bits/byte (32,768 tokens)
      done   400 steps, 2 skipped, 819.2 k tokens in 2:31; training loss 3.9000
             held-out loss 4.0100, 1.5012 bits/byte"
    `);
  });

  it('writes a line every ten steps or two seconds, and the last step', () => {
    const steps = (ms: number) => Array.from({ length: 25 }, (_, i) => [ms, step({ step: i + 1, steps: 25 })]).flat();
    const numbers = (events: readonly (TrainEvent | number)[]) =>
      logged(events).map((line) => /(\d+)\/25/.exec(line)?.[1]);
    expect(numbers(steps(1))).toEqual(['1', '11', '21', '25']);
    expect(numbers(steps(700))).toEqual(['1', '4', '7', '10', '13', '16', '19', '22', '25']);
  });

  it('writes warnings, and where the run went back to; steps then count from there', () => {
    const back: TrainEvent[] = [
      start(),
      step({ step: 30 }),
      { type: 'warning', step: 30, message: 'loss spike 7.1 is above 6; back to the last checkpoint' },
      { type: 'rollback', from: 30, step: 24 },
      step({ step: 25 }),
      step({ step: 34 }),
    ];
    const lines = logged(back).slice(logged(back.slice(0, 1)).length);
    expect(lines.map((line) => line.replace(/ {2}loss .*/, ''))).toEqual([
      'step   30/400',
      'warn   step 30: loss spike 7.1 is above 6; back to the last checkpoint',
      'back   from step 30 to step 24, past the data read since',
      'step   34/400',
    ]);
  });

  it('writes how many processes train, what they wait for each other, and where they go on when one is lost', () => {
    const sent = { wireBytesSent: 4096, compressionMs: 0.5, compressionError: 0.25 };
    const world = { size: 3, round: 1, communicationMs: 5, exposedMs: 2, commShare: 0.08, ...sent };
    expect(
      logged([
        start({ worldSize: 3, rank: 0 }),
        { type: 'round', round: 1, size: 3, lost: [0, 2], step: 5, from: 'memory' },
        step({ step: 6, world }),
      ]),
    ).toEqual(
      expect.arrayContaining([
        'world  3 processes, this is rank 0',
        'round  1 of 3 processes, without ranks 0, 2 of the last: goes on after step 5, as held in memory',
        expect.stringMatching(/ {2}comm 8 % 4\.00 KiB$/),
      ]),
    );
  });

  it('writes skipped steps at once', () => {
    expect(logged([step(), step({ step: 2, skipped: true })])[1]).toContain('SKIPPED by a rule');
    const overflowed = step({ step: 2, skipped: true, overflowed: true, lossScale: 16384 });
    expect(logged([step(), overflowed])[1]).toMatch(/SKIPPED: gradient not finite.*scale 16384/);
  });
});
