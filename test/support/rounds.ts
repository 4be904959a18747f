/** A deployment around rounds alone: database, artifacts, a tiny base as version 1, the real worker, stages wired as the cycle does. */
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { silentLog } from '../../src/base/log.ts';
import { loadSettings, type Settings } from '../../src/base/settings.ts';
import type { Action } from '../../src/events/actions.ts';
import type { GateVerdict } from '../../src/events/signals.ts';
import { ComputeWorker } from '../../src/learn/worker/client.ts';
import { evaluate } from '../../src/loop/evaluate/index.ts';
import { seedMonitor } from '../../src/loop/monitor/turn.ts';
import { createVersion, openVersion } from '../../src/loop/registry/index.ts';
import { promoteIn, rollbackIn } from '../../src/loop/registry/promote.ts';
import { bootstrap } from '../../src/loop/round/bootstrap.ts';
import { type RoundPorts, runRound, startRound } from '../../src/loop/round/index.ts';
import { openArtifacts } from '../../src/store/artifacts.ts';
import { appendEvent } from '../../src/store/outbox.ts';
import type { RoundRow } from '../../src/store/rounds.ts';
import { aliasVersion } from '../../src/store/versions.ts';
import { testFolder } from './daemon.ts';
import { type TestDatabase, testDatabase } from './database.ts';
import { writeTinyModel } from './tiny-model.ts';

export interface RoundDeployment {
  readonly db: TestDatabase;
  readonly ports: RoundPorts;
  /** Pids of the workers started, in order. */
  readonly workers: number[];
  begin(actions: readonly Action[], fence?: number): Promise<RoundRow>;
  run(actions: readonly Action[]): Promise<RoundRow>;
  champion(): Promise<number>;
  label(
    rows: ReadonlyArray<{ user: string; text: string; label: string; task?: string; split?: string }>,
  ): Promise<void>;
  /** Corrections, preferences and ratings; a rating comes with the exchange it is about. */
  said(rows: readonly Said[]): Promise<void>;
  document(
    rows: ReadonlyArray<{ user?: string; text: string; source?: string; public?: boolean; split?: string }>,
  ): Promise<void>;
}

export interface Said {
  readonly user: string;
  readonly kind: 'correction' | 'preference' | 'rating';
  readonly prompt: string;
  readonly ideal?: string;
  readonly chosen?: string;
  readonly rejected?: string;
  readonly value?: -1 | 1;
  readonly answer?: string;
  /** User of the exchange, where it is another one. */
  readonly asker?: string;
}

export const admitAll = (): GateVerdict => ({ admitted: true, lines: [] });

export async function roundDeployment(
  t: TestContext,
  options: { base?: string; settings?: Record<string, unknown>; ports?: Partial<RoundPorts> } = {},
): Promise<RoundDeployment> {
  const db = await testDatabase(t);
  const folder = testFolder(t, 'rounds');
  const base = options.base ?? (await writeTinyModel(folder, 'base', 7));
  const settings: Settings = loadSettings({
    env: {},
    cwd: folder,
    data: join(folder, 'data'),
    overrides: { base, 'train.threads': 2, 'train.feature_layer': 2, ...options.settings },
  });
  const workers: number[] = [];
  const ports: RoundPorts = {
    db,
    settings,
    log: silentLog,
    artifacts: await openArtifacts(join(settings.data, 'artifacts')),
    fence: 1,
    openWorker: () => new ComputeWorker({ threads: 2, onStart: pid => workers.push(pid) }),
    budget: () => ({ epsilon: 8, delta: 1e-6, windowMs: null }),
    gate: admitAll,
    evaluate,
    seedMonitor,
    registry: { createVersion, promoteIn, rollbackIn, openVersion },
    ...options.ports,
  };
  await bootstrap(ports, new AbortController().signal);
  const champion = async (): Promise<number> => (await aliasVersion(db, 'champion'))!.n;
  const begin: RoundDeployment['begin'] = async (actions, fence = 1) =>
    await db.tx(async tx =>
      startRound(
        tx,
        { actions, reason: 'test', parent: (await aliasVersion(tx, 'champion'))!.n, fence },
        { name: settings.name, announce: appendEvent },
      ),
    );
  let n = 0;
  const event = async (kind: string): Promise<number> => {
    const { rows } = await db.query<{ id: number }>(
      `insert into events (source, event_id, type, kind, origin) values ('test', $1, 'test', $2, 'cli') returning id`,
      [String(++n), kind],
    );
    return rows[0]!.id;
  };
  return {
    db,
    ports,
    workers,
    begin,
    champion,
    run: async actions => await runRound(ports, (await begin(actions)).id, new AbortController().signal),
    label: async rows => {
      for (const { user, text, label, task = 'intent', split = 'train' } of rows)
        await db.query(
          `insert into feedback (event, kind, unit, user_id, task, text, label, split, scored_at)
           values ($1, 'label', $2, $3, $4, $5, $6, $7, now())`,
          [await event('feedback'), `u:${user}`, user, task, text, label, split],
        );
    },
    said: async rows => {
      for (const { user, kind, prompt, answer, asker = user, ...rest } of rows) {
        const id = await event('feedback');
        const response = kind === 'rating' ? `resp_${id}` : null;
        if (response !== null)
          await db.query(
            `insert into exchanges (response_id, version, api, user_id, input, output, status, usage)
             values ($1, 'learnd@1', 'responses', $2, $3, $4, 'completed', '{}')`,
            [response, asker, JSON.stringify([{ role: 'user', content: prompt }]), answer],
          );
        await db.query(
          `insert into feedback (event, kind, unit, user_id, prompt, ideal, chosen, rejected, value, response_id, split)
           values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'train')`,
          [
            ...[id, kind, `u:${user}`, user, kind === 'rating' ? null : prompt],
            ...[rest.ideal, rest.chosen, rest.rejected, rest.value, response].map(value => value ?? null),
          ],
        );
      }
    },
    document: async rows => {
      for (const row of rows) {
        const id = await event('document');
        await db.query(
          `insert into documents (event, unit, user_id, source, public, text, content_hash, split, scored_at)
           values ($1, $2, $3, $4, $5, $6, $7, $8, now())`,
          [
            id,
            row.user === undefined ? `e:${id}` : `u:${row.user}`,
            row.user ?? null,
            row.source ?? 'mail',
            row.public ?? false,
            row.text,
            Buffer.from(String(id)),
            row.split ?? 'train',
          ],
        );
      }
    },
  };
}
