#!/usr/bin/env node
// Starts the command line: registers the TypeScript loader in this same process, so that no wrapper stands between a signal and the daemon.
import { register } from 'tsx/esm/api';

const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`learnd needs Node 20.19 or newer; this is ${process.version}\n`);
  process.exit(1);
}
register();
const { main } = await import('../src/main.ts');
await main(process.argv.slice(2));
