/**
 * learnd's engine on the bench's model, as peer.py: one JSON answer a line for each JSON line read. Its own process, so that its
 * peak memory and its threads are its own. The private step is the trainer's: clipped sum, one draw of noise, Adam.
 */
import { createInterface } from 'node:readline';
import { setting } from './setting.ts';
import { contestant } from './step.ts';

const step = contestant(setting(process.argv[2]!));
for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line) as { do: 'step' | 'memory' };
  if (question.do === 'memory') {
    process.stdout.write(`${JSON.stringify({ peak: process.resourceUsage().maxRSS * 1024 })}\n`);
    continue;
  }
  const started = performance.now();
  const before = process.cpuUsage();
  await step();
  const { user, system } = process.cpuUsage(before);
  const seconds = (performance.now() - started) / 1000;
  process.stdout.write(`${JSON.stringify({ seconds, cpu: (user + system) / 1e6 })}\n`);
}
