import assert from 'node:assert/strict';
import { eventually, type TestDaemon } from './daemon.ts';

/** A round as the API shows it, as far as the tests look. */
export interface ShownRound {
  readonly state: string;
  readonly error: string | null;
  readonly reason: string;
  readonly epsilon: number;
  readonly notes: string[];
  readonly actions: { do: string; method: string }[];
  readonly verdict: {
    readonly champion: { size_mb: number; tokens_per_second: number; parameters: number; perplexity: number };
    readonly candidate: { size_mb: number; tokens_per_second: number; parameters: number; perplexity: number };
  };
}

/** Waits until `learnd@N` is the champion and gives the newest round; a round that ends otherwise fails the test at once. */
export async function champion(daemon: TestDaemon, n: number, ms: number): Promise<ShownRound> {
  return await eventually(
    `learnd@${n}`,
    async () => {
      const status = (await daemon.get('/v1/admin/status')) as { champion: string };
      const [round] = (await daemon.get('/v1/admin/rounds')) as ShownRound[];
      if (status.champion === `learnd@${n}`) return round;
      if (round && ['failed', 'rejected', 'refused'].includes(round.state))
        assert.fail(`the round ended ${round.state}: ${round.error} ${JSON.stringify(round.verdict)}`);
      return undefined;
    },
    ms,
  );
}

/** Waits until an answer comes from `learnd@N`. */
export async function answers(daemon: TestDaemon, n: number, ms = 60_000): Promise<void> {
  const ask = { model: 'learnd', input: 'Hello', max_output_tokens: 4 };
  await eventually(
    `an answer by learnd@${n}`,
    async () => ((await daemon.post('/v1/responses', ask)) as { model: string }).model === `learnd@${n}` || undefined,
    ms,
  );
}
