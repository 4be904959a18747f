import { type BenchOptions, median, type Row } from '../kit.ts';
import { featureSet } from './features.ts';
import { ours } from './ours.ts';
import { taskOf } from './split.ts';

const SETS = [
  { name: '15 intents, 300 users', intents: 15, users: 300, seeds: 5 },
  { name: '77 intents, 2,000 users', intents: 77, users: 2000, seeds: 2 },
] as const;

/** Weighted F1 by intents, delta and epsilon: mean over seeds of intents, users and noise. */
export async function accuracy(folder: string, models: string, { quick, log, args }: BenchOptions): Promise<Row[]> {
  const set = await featureSet(folder, models, log);
  const rows: Row[] = [];
  for (const { name, intents, users, seeds } of SETS.filter(s => args[1] === undefined || args[1] === `${s.intents}`))
    for (const delta of [1e-5, 1e-6])
      for (const epsilon of [8, 4, 2, 1, null]) {
        if (epsilon === null && delta !== 1e-5) continue;
        const found: number[] = [];
        for (let seed = 0; seed < (quick ? 1 : seeds); seed++)
          found.push(await ours(set, taskOf(set, { intents, users, seed }), { epsilon, delta }));
        const mean = found.reduce((a, b) => a + b, 0) / found.length;
        const what = epsilon === null ? `${name}, without noise` : `${name}, epsilon ${epsilon}, delta ${delta}`;
        rows.push({
          ...{ what, value: mean, unit: 'F1' },
          detail: `lowest ${Math.min(...found).toFixed(3)}, median ${median(found).toFixed(3)}, ${found.length} seeds`,
        });
        log(`${what}: ${mean.toFixed(3)} (${found.map(f => f.toFixed(3)).join(' ')})`);
      }
  return rows;
}
