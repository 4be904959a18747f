import type { Action } from '../../events/actions.ts';
import type { Queryable } from '../../store/database.ts';
import { insertRound, type RoundRow } from '../../store/rounds.ts';
import type { Announce } from './machine.ts';

export interface RoundRequest {
  /** Row of `decisions` and of `policies` that asked for it; undefined: a person did. */
  readonly decision?: number | undefined;
  readonly policy?: number | undefined;
  readonly rule?: string | undefined;
  readonly actions: readonly Action[];
  readonly reason: string;
  /** The champion's number. */
  readonly parent: number;
  readonly fence: number;
}

/**
 * Writes the round and announces it; `runRound` does the rest. In the transaction of the decision, so that neither is without the other.
 * @throws LearndError('conflict') while another round is not finished.
 */
export async function startRound(
  tx: Queryable,
  request: RoundRequest,
  context: { name: string; announce: Announce },
): Promise<RoundRow> {
  const round = await insertRound(tx, {
    decision: request.decision,
    policy: request.policy,
    rule: request.rule,
    actions: request.actions,
    reason: request.reason,
    parent: request.parent,
    fence: request.fence,
  });
  await context.announce(tx, 'learnd.round.started', {
    round: round.id,
    reason: round.reason,
    parent: `${context.name}@${request.parent}`,
  });
  return round;
}
