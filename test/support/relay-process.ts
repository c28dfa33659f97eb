// A relay in a process of its own (in a network's router; see network.ts): its options are the argument, what changes comes as
// messages, and it ends with the process that started it.
import { type RelayBehaviour, startRelay } from './relay.js';

const relay = await startRelay(JSON.parse(process.argv[2] as string));
process.on('message', (message: Partial<RelayBehaviour> | 'reset') => {
  if (message === 'reset') relay.reset();
  else relay.set(message);
  process.send?.('done');
});
process.on('disconnect', () => process.exit());
process.send?.('listening');
