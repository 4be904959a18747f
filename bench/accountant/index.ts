import { join } from 'node:path';
import { alternate, type BenchOptions, median, type Row } from '../kit.ts';

export const name = 'accountant';
export const title = 'Privacy accountant: a PRV epsilon against Opacus (PRV) and dp-accounting (PLD) in the same run';

/** Noise multiplier, sampling rate, steps, delta. The first six have at most 2,250 steps, the others up to 50,000. */
const CASES: readonly (readonly [number, number, number, number])[] = [
  [1.5, 0.04, 2250, 1e-5],
  [0.8, 0.05, 1000, 1e-6],
  [0.6, 0.01, 2000, 1e-6],
  [1, 0.001, 2250, 1e-6],
  [3, 0.2, 100, 1e-6],
  [2, 0.05, 100, 1e-6],
  [1.5, 0.001, 20_000, 1e-6],
  [0.8, 0.001, 50_000, 1e-6],
  [3, 0.05, 50_000, 1e-6],
];

interface Answer {
  readonly epsilon: number;
  readonly seconds: number;
}

export async function run({ quick, log }: BenchOptions): Promise<Row[]> {
  const { epsilon } = await import('../../src/learn/privacy/accountant.ts');
  const { peerPython, startPeer } = await import('../peers/environment.ts');
  const peer = startPeer(peerPython(log), join(import.meta.dirname, 'peer.py'), [], 1);
  const rows: Row[] = [];
  try {
    for (const [sigma, q, steps, delta] of quick ? CASES.slice(4, 7) : CASES) {
      const what = `${sigma}, ${q}, ${steps} steps`;
      log(`accountant: ${what}`);
      const ask = (by: string): Promise<Answer> => peer.ask<Answer>({ by, sigma, q, steps, delta });
      const found = { ours: 0, opacus: 0, pld: 0 };
      const seconds = await alternate(
        {
          ours: async () => {
            const started = performance.now();
            found.ours = epsilon([{ noise_multiplier: sigma, sample_rate: q, steps }], delta);
            return (performance.now() - started) / 1000;
          },
          opacus: async () => {
            const answer = await ask('opacus');
            found.opacus = answer.epsilon;
            return answer.seconds;
          },
          pld: async () => {
            const answer = await ask('dp-accounting');
            found.pld = answer.epsilon;
            return answer.seconds;
          },
        },
        quick ? 1 : 3,
      );
      const lower = (await ask('lower')).epsilon;
      const ms = {
        ours: median(seconds.ours) * 1e3,
        opacus: median(seconds.opacus) * 1e3,
        pld: median(seconds.pld) * 1e3,
      };
      rows.push(
        {
          what: `PRV ${what}`,
          value: ms.ours,
          unit: 'ms',
          most: steps <= 2250 ? 300 : 5000,
          detail: `Opacus ${ms.opacus.toFixed(0)} ms, dp-accounting ${ms.pld.toFixed(0)} ms`,
        },
        {
          what: `epsilon above the lower bound`,
          value: found.ours - lower,
          unit: '',
          least: 0,
          most: found.pld - lower + 0.0115,
          detail: `ours ${found.ours.toFixed(5)}, Opacus ${found.opacus.toFixed(5)}, dp-accounting ${lower.toFixed(5)} ... ${found.pld.toFixed(5)}`,
        },
      );
    }
  } finally {
    await peer.close();
  }
  return rows;
}
