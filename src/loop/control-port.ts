import { sleep } from '../base/clock.ts';
import { LearndError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Settings } from '../base/settings.ts';
import type { Signals } from '../events/signals.ts';
import type { Database } from '../store/database.ts';
import { waitingCounts } from '../store/status.ts';
import { aliasVersion } from '../store/versions.ts';
import { erase } from './ingest/erasure.ts';
import type { EventLog } from './ingest/event-log.ts';
import { replayDeadLetters } from './ingest/replay.ts';
import type { budgetReader } from './monitor/signals.ts';
import { parsePolicy } from './policy/parse.ts';
import { type PolicyWatch, policyFile, putPolicy } from './policy/watch.ts';
import { beginRound } from './rounds.ts';

/** What a person may ask of the loop, and see of it; the HTTP admin part knows nothing else of it. */
export interface ControlPort {
  signals(): Promise<Signals>;
  budget(): Promise<{ epsilon_spent: number; epsilon_limit: number; delta: number }>;
  policy(): { id: number; source: string; text: string; problem: unknown };
  putPolicy(text: string): Promise<unknown>;
  startRound(actions: readonly unknown[], reason: string): Promise<{ round: number }>;
  erase(user: string, reason: string | undefined): Promise<unknown>;
  lag(): Promise<Record<string, unknown>>;
  replayDeadLetters(): Promise<unknown>;
}

const LAG_WITHIN_MS = 2_000;

export function controlPort(parts: {
  db: Database;
  settings: Settings;
  secret: Uint8Array;
  log: Log;
  policy: PolicyWatch;
  signals: () => Promise<Signals>;
  budget: ReturnType<typeof budgetReader>;
  announcements: () => EventLog | undefined;
}): ControlPort {
  const { db, settings, secret, log, policy } = parts;
  return {
    signals: parts.signals,
    async budget() {
      const limit = policy.current().policy.budget;
      const { spent } = await parts.budget(db, limit);
      return { epsilon_spent: spent, epsilon_limit: limit.epsilon, delta: limit.delta };
    },
    policy() {
      const active = policy.current();
      return { id: active.id, source: active.source, text: active.policy.text, problem: policy.problem() ?? null };
    },
    async putPolicy(text) {
      const put = await putPolicy(text, { db, settings, file: policyFile(settings), log });
      await policy.refresh();
      return { id: put.policy.id, warnings: put.warnings, file: put.file ?? null };
    },
    async startRound(actions, reason) {
      if (!settings.roles.includes('control'))
        throw new LearndError('conflict', 'this process does not run rounds; ask one with the role control');
      // The rule around it is only there so that the actions are checked as a policy's are, with the same messages.
      const text = JSON.stringify({
        rules: [{ name: 'asked-for', when: 'true', do: actions }],
        budget: { epsilon: policy.current().policy.budget.epsilon },
      });
      const checked = parsePolicy(text, { file: 'actions', settings }).rules[0]!;
      const champion = await aliasVersion(db, 'champion');
      if (champion === undefined) throw new LearndError('not_ready', 'there is no version to start from yet');
      const round = await db.tx(tx =>
        beginRound(tx, settings, { actions: checked.actions, reason, policy: policy.current().id, fence: 0 }),
      );
      if (round === null) throw new LearndError('invalid', 'these actions make no round', { field: 'actions' });
      return { round };
    },
    async erase(user) {
      return erase(db, { user, secret });
    },
    async lag() {
      const waiting = await waitingCounts(db);
      const eventLog = parts.announcements();
      if (eventLog === undefined) return { ...waiting, kafka: null };
      // Brokers that are away take long to say so, or fail: either way there is no lag to tell, and the state says why.
      const topics =
        eventLog.state === 'connected'
          ? await Promise.race([eventLog.lag().catch(() => null), sleep(LAG_WITHIN_MS).then(() => null)])
          : null;
      return { ...waiting, kafka: { state: eventLog.state, topics } };
    },
    async replayDeadLetters() {
      return replayDeadLetters(db, settings, secret);
    },
  };
}
