// Runs of hadal on hosts that are network namespaces (test/support/network.ts), in several processes each.
import '../../../bench/support/typescript.mjs';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const { canMakeNetworks, hostPorts, makeNetwork } = await import('../../../test/support/network.js');

export { canMakeNetworks };

const cli = fileURLToPath(new URL('../../../dist/cli/main.js', import.meta.url));
const token = 'the secret of runs on hosts that are none';
const mostMs = 300_000;

/**
 * Runs a command on hosts of their own, which are there for it alone.
 *
 * @param {string[]} command - of hadal, with --json
 * @param {{ hosts: number, nproc: number, mbit: number | null, delayMs: number, env?: Record<string, string> }} where
 * @returns {Promise<any[]>} what host 0 printed, a value a line
 */
export async function onHosts(command, { hosts, nproc, mbit, delayMs, env = {} }) {
  const network = await makeNetwork({ hosts, mbit, relay: delayMs > 0 ? { delayMs } : null });
  try {
    const meeting = `${network.hosts[0]?.address}:${hostPorts.first}`;
    const processes = network.hosts.map((host, i) => {
      const launch = ['launch', '--nnodes', hosts, '--node-rank', i, '--nproc', nproc, '--rendezvous', meeting];
      const args = [cli, ...launch.map(String), '--threads', '1', '--max-restarts', '0', '--', ...command];
      return host.spawn(process.execPath, args, {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: { ...process.env, HADAL_TOKEN: token, ...env },
      });
    });
    const results = await Promise.all(processes.map((child) => ended(child, command)));
    return results[0] ?? [];
  } finally {
    network.remove();
  }
}

/** Runs a command on this machine. @param {string[]} args - of hadal, with --json */
export async function here(args, env = {}) {
  const stdio = /** @type {['ignore', 'pipe', 'pipe']} */ (['ignore', 'pipe', 'pipe']);
  return ended(spawn(process.execPath, [cli, ...args], { stdio, env: { ...process.env, ...env } }), args);
}

/** What a process prints as JSON, a value a line. */
function ended(child, command) {
  return new Promise((resolve, reject) => {
    let [output, errors] = ['', ''];
    const timer = setTimeout(() => child.kill('SIGKILL'), mostMs);
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      errors += text;
    });
    child.on('close', (status, signal) => {
      clearTimeout(timer);
      const lines = output.split('\n').filter((line) => line.startsWith('{'));
      if (status === 0) resolve(lines.map((line) => JSON.parse(line)));
      else
        reject(new Error(`${command.slice(0, 2).join(' ')} ended with ${status ?? signal}:\n${errors.slice(-2000)}`));
    });
  });
}
