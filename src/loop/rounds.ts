import type { Action } from '../events/actions.ts';
import { ComputeWorker } from '../learn/worker/client.ts';
import type { Queryable } from '../store/database.ts';
import type { DecisionRow } from '../store/decisions.ts';
import { appendEvent } from '../store/outbox.ts';
import { aliasVersion } from '../store/versions.ts';
import { evaluate } from './evaluate/index.ts';
import { seedMonitor } from './monitor/turn.ts';
import type { CycleParts } from './parts.ts';
import { compileGate } from './policy/gate.ts';
import type { PolicyWatch } from './policy/watch.ts';
import { createVersion, openVersion } from './registry/index.ts';
import { promoteIn, rollbackIn } from './registry/promote.ts';
import { type RoundPorts, startRound } from './round/index.ts';

/** What a round is given by the other stages. */
export function roundPorts(parts: CycleParts, at: { policy: PolicyWatch; fence: number }): RoundPorts {
  const { db, settings, artifacts, log } = parts;
  // The policy in force when it is asked: a gate made stricter during a round counts for that round.
  const policy = () => at.policy.current().policy;
  return {
    db,
    settings,
    artifacts,
    log,
    fence: at.fence,
    openWorker: () => new ComputeWorker({ threads: settings.train.threads }),
    budget: () => policy().budget,
    gate: (champion, candidate, signals) => compileGate(policy())(champion, candidate, signals),
    evaluate,
    seedMonitor,
    registry: { createVersion, promoteIn, rollbackIn, openVersion },
  };
}

/** Actions that make a round, as opposed to a message sent on its own. */
const makesRound = (action: Action): boolean => action.do !== 'notify';

/** The round's row, in the transaction of the decision; null when the actions only notify. */
export async function beginRound(
  tx: Queryable,
  settings: { readonly name: string },
  request: { decision?: DecisionRow; actions: readonly Action[]; reason?: string; policy: number; fence: number },
): Promise<number | null> {
  if (!request.actions.some(makesRound)) return null;
  const champion = await aliasVersion(tx, 'champion');
  if (champion === undefined) return null;
  const row = await startRound(
    tx,
    {
      decision: request.decision?.id,
      policy: request.policy,
      rule: request.decision?.rule ?? undefined,
      actions: request.actions,
      reason: request.reason ?? request.decision?.reason ?? '',
      parent: champion.n,
      fence: request.fence,
    },
    { name: settings.name, announce: appendEvent },
  );
  return row.id;
}
