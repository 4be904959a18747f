/** A round from its row to its end: frozen view, reserved cost, training, compression, evaluation, gate, publication. */
import { epsilon } from '../../learn/privacy/accountant.ts';
import type { Queryable } from '../../store/database.ts';
import { settle, unsettled } from '../../store/ledger.ts';
import { appendEvent } from '../../store/outbox.ts';
import { getRound, type RoundRow } from '../../store/rounds.ts';
import { compressStep } from './compress.ts';
import { removeCheckpoints, removeFolder } from './files.ts';
import { evaluateStep, gateStep, publishStep } from './judge.ts';
import { type MachineContext, runRound as run } from './machine.ts';
import { planStep } from './plan.ts';
import type { RoundPorts } from './ports.ts';
import { trainStep, withoutSeed } from './train.ts';
import { noisesOf, workOf } from './work.ts';

export type { Verdict } from './judge.ts';
export type { Compute, RoundPorts } from './ports.ts';
export { type RoundRequest, startRound } from './start.ts';

/**
 * Runs a round to its end, from wherever an earlier process left it.
 * @throws LearndError('canceled') on `signal`, the round stays resumable; 'conflict' when another leader has taken it over;
 *   'dependency' when the database is away for long. A step that fails does not throw: the round ends in state `failed`.
 */
export async function runRound(ports: RoundPorts, id: number, signal: AbortSignal): Promise<RoundRow> {
  const round = await run(machineOf(ports), id, signal);
  // What a killed attempt left behind, where none came after it.
  await removeFolder(ports.settings.data, id);
  await removeCheckpoints(ports.settings.data, id);
  return round;
}

const machineOf = (ports: RoundPorts): MachineContext => ({
  db: ports.db,
  log: ports.log,
  fence: ports.fence,
  attempts: ports.settings.train.attempts,
  name: ports.settings.name,
  announce: appendEvent,
  settle: settleFailed,
  steps: {
    plan: planStep(ports),
    train: trainStep(ports),
    compress: compressStep(ports),
    evaluate: evaluateStep(ports),
    gate: gateStep(ports),
    publish: publishStep(ports),
  },
});

/**
 * A round that ends before its training was settled: the whole reservation counts as released once a noised step may have
 * happened, else nothing does. Its seeds are destroyed.
 */
async function settleFailed(tx: Queryable, round: RoundRow) {
  if (!(await unsettled(tx)).includes(round.id)) return undefined;
  // Read anew: that a noised step may have happened was noted after the step's own copy of the row was read.
  const { begun = false, reserved = [], trainings = [] } = workOf(await getRound(tx, round.id));
  const mechanisms = begun ? reserved : [];
  const { delta } = trainings.flatMap(noisesOf)[0]!;
  await settle(tx, {
    round: round.id,
    mechanisms,
    delta,
    compose: epsilon,
    note: begun
      ? `round ${round.id} failed after training had begun: charged in full`
      : `round ${round.id} ended before its first step`,
  });
  return { epsilon: epsilon(mechanisms, delta), work: { trainings: trainings.map(withoutSeed), begun: null } };
}
