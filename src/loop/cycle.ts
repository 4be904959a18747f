import { type Clock, sleep, systemClock } from '../base/clock.ts';
import { LearndError, oneLine } from '../base/errors.ts';
import { type Loop, startLoop } from '../base/loop.ts';
import type { Signals } from '../events/signals.ts';
import { epsilon } from '../learn/privacy/accountant.ts';
import { ComputeWorker } from '../learn/worker/client.ts';
import { campaign } from '../store/leader.ts';
import { forgetEvents } from '../store/outbox.ts';
import { runningRound } from '../store/rounds.ts';
import { aliasVersion } from '../store/versions.ts';
import { afterRound, notifyAll } from './after-round.ts';
import { type ControlPort, controlPort } from './control-port.ts';
import type { EventLog } from './ingest/event-log.ts';
import { matchLate } from './ingest/late.ts';
import { budgetReader, collectSignals } from './monitor/signals.ts';
import { monitorTurn } from './monitor/turn.ts';
import type { CycleParts } from './parts.ts';
import { policyTurn } from './policy/turn.ts';
import { type PolicyWatch, policyFile, watchPolicy } from './policy/watch.ts';
import { publishOutbox } from './publish/index.ts';
import { openVersion } from './registry/index.ts';
import { bootstrap } from './round/bootstrap.ts';
import { runRound } from './round/index.ts';
import { beginRound, roundPorts } from './rounds.ts';

export interface Control {
  readonly port: ControlPort;
  /** Resolves once the deployment has a version; rejects when the base cannot be had. At once where this process does not lead. */
  readonly bootstrapped: Promise<void>;
  /** Announcements go there from now on. */
  publishTo(log: EventLog): void;
  /** Figures for the metrics. */
  readonly gauges: {
    signals(): Promise<Signals>;
    lag(): Promise<number | undefined>;
    championNumber(): Promise<number | undefined>;
  };
  stop(): Promise<void>;
}

/** The monitor's worker ends after so long without documents or labels: it holds a float32 copy of the model. */
const SCORER_IDLE_MS = 60_000;
/** Without a log to publish to, announcements are kept so long for whoever reads the table. */
const OUTBOX_KEPT_MS = 30 * 86_400_000;

/**
 * The loop in one page. Events are in the store (ingest put them there); whoever leads
 *   1. monitors: the champion is scored on what has arrived, before anything may be learned from it;
 *   2. decides: signals, policy and history make a decision, stored with its reasons;
 *   3. runs the round the decision began: freeze, reserve, train, compress, evaluate, gate, publish;
 *   4. announces what happened.
 * Serving follows the champion's alias row by itself. Each step ends in rows, so a new leader goes on where the last one stopped.
 */
export async function startControl(parts: CycleParts): Promise<Control> {
  const { db, settings, log } = parts;
  const clock = parts.clock ?? systemClock;
  const leads = settings.roles.includes('control');
  const policy = await watchPolicy({ file: policyFile(settings), db, settings, log });
  const budget = budgetReader(epsilon, clock);
  let announcements: EventLog | undefined;

  const signals = async () => {
    const champion = await aliasVersion(db, 'champion');
    return collectSignals({
      db,
      settings,
      serving: parts.stats,
      champion: champion && { n: champion.n, card: champion.evaluation as never },
      budget: await budget(db, policy.current().policy.budget),
      clock,
    });
  };

  let arrived: (value?: undefined) => void = () => undefined;
  let failed: (error: unknown) => void = () => undefined;
  const bootstrapped = new Promise<void>((resolve, reject) => {
    arrived = resolve;
    failed = reject;
  });
  if (!leads) arrived();
  const stopped = new AbortController();
  // Another process may lead: then this one only waits until that one has made the first version.
  const firstVersion = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      const there = await aliasVersion(db, 'champion').catch(() => undefined); // a database that is away: the next look tells
      if (there !== undefined) return arrived();
      await sleep(500, stopped.signal);
    }
  };
  if (leads) void firstVersion();

  const lead = async ({ fence, signal }: { fence: number; signal: AbortSignal }): Promise<void> => {
    try {
      await bootstrap(roundPorts(parts, { policy, fence }), signal);
      arrived();
    } catch (error) {
      // With the lead lost in between, the next leader makes it: this process or another.
      if (!signal.aborted) failed(error);
      throw error;
    }
    const scorer = new ComputeWorker({ threads: settings.train.threads, idleMs: SCORER_IDLE_MS });
    const loops: Loop[] = [
      monitorLoop(parts, scorer, () => loops[1]?.wake()),
      policyLoop(parts, { policy, signals, clock, fence, begun: () => loops[2]?.wake() }),
      roundLoop(parts, { policy, fence, done: () => loops[1]?.wake() }),
      outboxLoop(parts, () => announcements),
    ];
    const unlisten = await db.listen('learnd', topic => {
      if (topic === 'events') loops[0]?.wake();
      if (topic === 'policy') loops[1]?.wake();
      if (topic === 'round') loops[2]?.wake();
    });
    while (!signal.aborted) await sleep(3_600_000, signal);
    await Promise.all(loops.map(loop => loop.stop()));
    await unlisten();
    await scorer.close();
  };
  const leadership = leads ? campaign(db, { log, work: lead }) : undefined;

  return {
    bootstrapped,
    port: controlPort({ ...parts, policy, signals, budget, announcements: () => announcements }),
    gauges: {
      signals,
      championNumber: async () => (await aliasVersion(db, 'champion'))?.n,
      async lag() {
        if (announcements === undefined || announcements.state !== 'connected') return undefined;
        return Object.values(await announcements.lag()).reduce((sum, n) => sum + n, 0);
      },
    },
    publishTo: eventLog => {
      announcements = eventLog;
    },
    stop: async () => {
      stopped.abort();
      failed(new LearndError('canceled', 'the start was called off'));
      await leadership?.stop();
      await policy.stop();
    },
  };
}

function monitorLoop(parts: CycleParts, scorer: ComputeWorker, changed: () => void): Loop {
  const { db, artifacts, settings, log } = parts;
  return startLoop({
    name: 'monitor',
    everyMs: settings.monitor.every_seconds * 1000,
    onError: error => log.warn('the monitor could not score', { reason: oneLine(error) }),
    async turn(signal) {
      await matchLate(db, settings, parts.secret);
      const row = await aliasVersion(db, 'champion');
      if (row === undefined) return;
      const files = await openVersion(row, artifacts);
      const turn = await monitorTurn({ db, scorer, settings, champion: { n: row.n, files }, log, signal });
      for (const { signal: name, change } of turn.changes)
        log.info(`alarm ${change}`, { signal: name, version: files.version });
      if (turn.changes.length > 0) changed();
    },
  });
}

function policyLoop(
  parts: CycleParts,
  at: {
    policy: PolicyWatch;
    signals: () => ReturnType<typeof collectSignals>;
    clock: Clock;
    fence: number;
    begun: () => void;
  },
): Loop {
  const { db, settings, log } = parts;
  return startLoop({
    name: 'policy',
    everyMs: settings.policy.every_seconds * 1000,
    onError: error => log.warn('the policy could not be evaluated', { reason: oneLine(error) }),
    async turn() {
      const active = at.policy.current();
      const { decision, row } = await policyTurn({
        db,
        active,
        signals: await at.signals(),
        now: at.clock.now(),
        begin: (tx, decided, actions) =>
          beginRound(tx, settings, { decision: decided, actions, policy: active.id, fence: at.fence }),
      });
      if (row === undefined) return;
      if (decision.outcome !== 'none')
        log.info(`decision: ${decision.outcome}`, { rule: decision.rule, reason: decision.reason });
      if (row.round !== null) at.begun();
      else if (decision.outcome === 'round')
        await notifyAll(parts, decision.actions ?? [], { decision: row.id, rule: row.rule, reason: row.reason });
    },
  });
}

function roundLoop(parts: CycleParts, at: { policy: PolicyWatch; fence: number; done: () => void }): Loop {
  const { db, log } = parts;
  return startLoop({
    name: 'rounds',
    everyMs: 2000,
    onError: error => log.warn('a round was interrupted', { reason: oneLine(error) }),
    async turn(signal) {
      const round = await runningRound(db);
      if (round === undefined) return;
      const ports = roundPorts(parts, { policy: at.policy, fence: at.fence });
      await afterRound(parts, await runRound(ports, round.id, signal));
      at.done();
    },
  });
}

function outboxLoop(parts: CycleParts, to: () => EventLog | undefined): Loop {
  const { db, settings, log } = parts;
  let said = false;
  return startLoop({
    name: 'outbox',
    everyMs: 500,
    onError: error => {
      if (!said) log.warn('announcements wait', { reason: oneLine(error) });
      said = true;
    },
    async turn() {
      const eventLog = to();
      if (settings.kafka.brokers.length === 0) await forgetEvents(db, OUTBOX_KEPT_MS);
      if (eventLog === undefined || eventLog.state !== 'connected') return;
      const publish = (topic: string, key: string, value: string) => eventLog.publish(topic, [{ key, value }]);
      await publishOutbox(db, { publish }, { name: settings.name });
      said = false;
    },
  });
}
