// Training with a parameter server, as one of its processes: which one, the environment says.
import { HadalError } from '../core/errors.js';
import { tokenFrom } from '../dist/environment.js';
import { joinWorld, type World } from '../dist/world.js';
import type { TrainConfig } from './config.js';
import type { TrainEvent } from './events.js';
import type { ServerAddress } from './parameter-server-run.js';
import { serve } from './parameter-server-serve.js';
import { work } from './parameter-server-work.js';

/** Whether a run has a parameter server. @throws HadalError HADAL_ERR_CONFIG where the launcher thinks so alone */
export function isServed({ dist: { mode } }: TrainConfig): boolean {
  if (process.env.HADAL_ROLE === undefined || mode === 'parameter-server') return mode === 'parameter-server';
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[train] field 'dist.mode' expected 'parameter-server' in a process of hadal launch --servers, got '${mode}'; add --set dist.mode=parameter-server`,
  );
}

/**
 * Trains as the server, or as one of its workers, or with others of a box as one of them.
 *
 * @param given - the processes of the box; default: those that the environment names
 * @throws HadalError as `train` does
 */
export async function* trainServed(
  asked: TrainConfig,
  given: World | null | undefined,
  signal: AbortSignal | undefined,
): AsyncGenerator<TrainEvent, void> {
  refuseUnserved(asked);
  const address = addressFrom(process.env);
  if (process.env.HADAL_ROLE === 'server') {
    yield* serve(asked, address, signal);
  } else {
    await using world = given === undefined ? await joinWorld() : given;
    yield* work(asked, address, world, signal);
  }
}

/** @throws HadalError HADAL_ERR_CONFIG where a variable is missing or broken */
function addressFrom(env: NodeJS.ProcessEnv): ServerAddress {
  const fail = (expected: string, name: string): never => {
    const got = env[name] === undefined ? 'none' : `'${env[name]}'`;
    throw new HadalError(
      'HADAL_ERR_CONFIG',
      `[dist] expected ${expected} in ${name}, got ${got}; hadal launch --servers 1 sets it`,
    );
  };
  if (env.HADAL_ROLE !== 'server' && env.HADAL_ROLE !== 'worker') fail("'server' or 'worker'", 'HADAL_ROLE');
  const [, host, digits] = /^\[?([^\]]+?)\]?:(\d{1,5})$/.exec(env.HADAL_SERVER ?? '') ?? [];
  const port = Number(digits);
  if (!host || !(port >= 1 && port <= 65535)) fail("the server's host:port", 'HADAL_SERVER');
  return { host: host as string, port, token: tokenFrom(env) };
}

/** What has no meaning, or no exact one, where gradients of different ages are used one after the other. */
function refuseUnserved({ dtype, precision, watch, dist, memory }: TrainConfig): void {
  const usesFp16 = dtype === 'fp16' || precision.layers.some((layer) => layer.dtype === 'fp16');
  const rule = watch.rules.find(({ action }) => action === 'rollback' || action === 'stop');
  const problems: [boolean, string, string, string][] = [
    [usesFp16, 'dtype', 'other than fp16, whose loss scale all processes would have to agree on', 'fp16'],
    [rule !== undefined, 'watch.rules', "no 'rollback' or 'stop'", `${rule?.action}`],
    [watch.debugNumerics, 'watch.debugNumerics', 'false', 'true'],
    [dist.zero > 0, 'dist.zero', '0: workers have no state of the optimizer', `${dist.zero}`],
    [
      dist.compression.kind !== 'none',
      'dist.compression.kind',
      "'none': see dist.server.pushDtype",
      dist.compression.kind,
    ],
    [memory.offload.optimizer || memory.offload.parameters, 'memory.offload', 'none', 'some'],
  ];
  const [problem] = problems.filter(([isOne]) => isOne);
  if (!problem) return;
  const [, field, expected, got] = problem;
  throw new HadalError(
    'HADAL_ERR_CONFIG',
    `[train] field '${field}' expected ${expected} where dist.mode is 'parameter-server', got ${got}`,
  );
}
