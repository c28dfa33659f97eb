// Imported before anything else: whatever would use the network says so on stderr and fails.
import dgram from 'node:dgram';
import dns from 'node:dns';
import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';

function forbid(object, name) {
  object[name] = () => {
    process.stderr.write(`network: ${name}\n`);
    throw new Error(`network: ${name}`);
  };
}

forbid(net.Socket.prototype, 'connect');
forbid(net.Server.prototype, 'listen');
forbid(dgram.Socket.prototype, 'bind');
forbid(dgram.Socket.prototype, 'send');
for (const name of ['lookup', 'resolve']) {
  forbid(dns, name);
  forbid(dns.promises, name);
}
forbid(globalThis, 'fetch');
syncBuiltinESMExports();
