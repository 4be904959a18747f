import { z } from 'zod';
import { invalid, LearndError, laterVersion } from '../base/errors.ts';
import type { Settings } from '../base/settings.ts';
import { epsilon } from '../learn/privacy/accountant.ts';
import type { ControlPort } from '../loop/control-port.ts';
import { importVersion, resolveModelName, versionName } from '../loop/registry/index.ts';
import { promote, rollback } from '../loop/registry/promote.ts';
import { canaryAudit } from '../loop/round/canaries.ts';
import { listAlarms, openAlarms } from '../store/alarms.ts';
import type { Artifacts } from '../store/artifacts.ts';
import type { Database } from '../store/database.ts';
import { listDecisions } from '../store/decisions.ts';
import { createKey, type Key, listKeys, revokeKey, SCOPES } from '../store/keys.ts';
import { listLedger, verifyLedger } from '../store/ledger.ts';
import { privacyReport } from '../store/privacy-report.ts';
import { listRounds, type RoundRow, runningRound } from '../store/rounds.ts';
import { eventCounts } from '../store/status.ts';
import { aliasHistory, aliasVersion, listVersions } from '../store/versions.ts';
import type { AdminHandler } from './ports.ts';

const limitOf = (query: URLSearchParams): number => {
  const limit = Number(query.get('limit') ?? 100);
  if (!Number.isInteger(limit) || limit < 1 || limit > 1000)
    throw invalid('limit', 'limit must be a whole number from 1 to 1000');
  return limit;
};

function object<T extends z.ZodRawShape>(shape: T, body: unknown): z.infer<z.ZodObject<T>> {
  const parsed = z.strictObject(shape).safeParse(body ?? {});
  if (parsed.success) return parsed.data as z.infer<z.ZodObject<T>>;
  const issue = parsed.error.issues[0]!;
  const field = issue.code === 'unrecognized_keys' ? issue.keys[0]! : issue.path.join('.');
  throw invalid(field, issue.code === 'unrecognized_keys' ? `unknown field "${field}"` : `${field}: ${issue.message}`);
}

export const roundItem = (name: string) => (row: RoundRow) => ({
  id: row.id,
  state: row.state,
  reason: row.reason,
  rule: row.rule,
  actions: row.actions,
  parent: row.parent === null ? null : `${name}@${row.parent}`,
  candidate: row.candidate === null ? null : `${name}@${row.candidate}`,
  verdict: row.verdict,
  epsilon: row.epsilon,
  progress: row.progress,
  error: row.error,
  /** What was decided on the way and why: the method that `auto` took, what stood out of the noise. */
  notes: (row.work as { notes?: readonly string[] } | null)?.notes ?? [],
  started_at: row.started_at,
  finished_at: row.finished_at,
});

/** A key as it is listed: never its token, and of its hash only as much as names it. */
const keyItem = (key: Key) => ({
  id: key.hash.slice(0, 12),
  name: key.name,
  scopes: key.scopes,
  created_at: key.created_at,
  revoked_at: key.revoked_at,
});

/** Everything under /v1/admin: `METHOD /path` to handler. */
export function adminHandlers(options: {
  settings: Settings;
  db: () => Database;
  /** Root of the artifacts store, for a command line on the same machine. */
  artifacts: () => string;
  artifactStore: () => Artifacts;
  control: () => ControlPort;
}): Readonly<Record<string, AdminHandler>> {
  const { settings, db, control } = options;
  const name = settings.name;
  const aliasItem = (p: Awaited<ReturnType<typeof promote>>) => ({
    alias: p.alias,
    version: versionName(p.version),
    previous: p.previous ? versionName(p.previous) : null,
  });

  return {
    'GET /v1/admin/status': async () => {
      const store = db();
      const [champion, round, alarms, events, signals, budget, lag] = await Promise.all([
        aliasVersion(store, 'champion'),
        runningRound(store),
        openAlarms(store),
        eventCounts(store),
        control().signals(),
        control().budget(),
        control().lag(),
      ]);
      return {
        champion: champion ? versionName(champion) : null,
        signals,
        alarms: alarms.map(a => ({ ...a, version: `${name}@${a.version}` })),
        budget,
        round: round ? roundItem(name)(round) : null,
        lag,
        events,
      };
    },
    'GET /v1/admin/rounds': async ({ query }) => (await listRounds(db(), limitOf(query))).map(roundItem(name)),
    'POST /v1/admin/rounds': async ({ body }) => {
      const { actions, reason } = object(
        { actions: z.array(z.unknown()).min(1), reason: z.string().max(500).optional() },
        body,
      );
      return control().startRound(actions, reason ?? 'asked for by an administrator');
    },
    'GET /v1/admin/versions': async ({ query }) =>
      (await listVersions(db(), limitOf(query))).map(row => ({
        version: versionName(row),
        sha256: row.sha256,
        parent: row.parent === null ? null : `${name}@${row.parent}`,
        round: row.round,
        state: row.state,
        created_at: row.created_at,
        epsilon: row.epsilon,
        evaluation: row.evaluation,
        manifest: row.manifest,
      })),
    'GET /v1/admin/versions/:version': async ({ params }) => ({
      ...(await resolveModelName(db(), settings, params.version!)),
      artifacts: options.artifacts(),
    }),
    /** Of a file on the daemon's own machine. */
    'POST /v1/admin/versions': async ({ body }) => {
      const wanted = object({ file: z.string().min(1).max(4096), name: z.string().optional() }, body);
      if (wanted.name !== undefined && wanted.name !== name) {
        throw invalid('name', `this daemon serves versions of "${name}", not of "${wanted.name}"`, {
          hint: `Import it as ${name}, or into a daemon whose setting name is ${wanted.name}.`,
        });
      }
      const row = await importVersion({ db: db(), artifacts: options.artifactStore(), name }, wanted.file);
      const { model } = row.manifest as { model: { parameters: number; bytes: number } };
      return {
        version: versionName(row),
        sha256: row.sha256,
        parameters: model.parameters,
        size_mb: model.bytes / 1e6,
      };
    },
    'POST /v1/admin/versions/:version/promote': async ({ params, body }) => {
      const { reason } = object({ reason: z.string().max(500).optional() }, body);
      const row = await resolveModelName(db(), settings, params.version!);
      return aliasItem(await promote(db(), { version: row.n, reason: reason ?? 'promoted by an administrator' }));
    },
    'POST /v1/admin/rollback': async ({ body }) => {
      const { version, reason } = object(
        { version: z.string().optional(), reason: z.string().max(500).optional() },
        body,
      );
      const target = version === undefined ? undefined : (await resolveModelName(db(), settings, version)).n;
      return aliasItem(await rollback(db(), { version: target, ...(reason === undefined ? {} : { reason }) }));
    },
    'GET /v1/admin/history': async () =>
      (await aliasHistory(db(), 'champion')).map(h => ({
        ...h,
        version: `${name}@${h.version}`,
        previous: h.previous === null ? null : `${name}@${h.previous}`,
      })),
    'GET /v1/admin/decisions': async ({ query }) => {
      if (query.has('why_not')) throw laterVersion('decisions --why-not');
      return listDecisions(db(), limitOf(query));
    },
    'GET /v1/admin/alarms': async () => (await listAlarms(db())).map(a => ({ ...a, version: `${name}@${a.version}` })),
    'GET /v1/admin/ledger': async ({ query }) => listLedger(db(), limitOf(query)),
    'GET /v1/admin/privacy': async () => {
      const { delta } = await control().budget();
      const audit = await canaryAudit(db(), delta);
      return { ...(await privacyReport(db(), { delta, compose: epsilon })), audit: audit ?? null };
    },
    'GET /v1/admin/privacy/verify': async () => verifyLedger(db()),
    'GET /v1/admin/policies': async () => control().policy(),
    'POST /v1/admin/policies': async ({ body }) => {
      const text = typeof body === 'string' ? body : object({ text: z.string() }, body).text;
      return control().putPolicy(text);
    },
    'POST /v1/admin/erase': async ({ body }) => {
      const { user, reason } = object(
        { user: z.string().min(1).max(256), reason: z.string().max(500).optional() },
        body,
      );
      return control().erase(user, reason);
    },
    'POST /v1/admin/dead-letters/replay': async () => control().replayDeadLetters(),
    'GET /v1/admin/keys': async () => (await listKeys(db())).map(keyItem),
    'POST /v1/admin/keys': async ({ body }) => {
      const wanted = object(
        { name: z.string().min(1).max(100), scopes: z.array(z.enum(SCOPES as [string, ...string[]])).min(1) },
        body,
      );
      const scopes = SCOPES.filter(scope => wanted.scopes.includes(scope));
      const { token, hash } = await createKey(db(), { name: wanted.name, scopes });
      return { id: hash.slice(0, 12), name: wanted.name, scopes, key: token };
    },
    'POST /v1/admin/keys/:id/revoke': async ({ params }) => {
      const found = (await listKeys(db())).filter(key => key.revoked_at === null && key.hash.startsWith(params.id!));
      if (params.id!.length < 12 || found.length !== 1)
        throw new LearndError('not_found', `no key "${params.id}" is in force`, {
          field: 'id',
          hint: 'learnd keys lists them.',
        });
      const left = (await listKeys(db())).filter(key => key.revoked_at === null && key.hash !== found[0]!.hash);
      if (!left.some(key => key.scopes.includes('admin')))
        throw new LearndError('conflict', 'this is the last admin key in force: without it nobody could make another', {
          field: 'id',
        });
      await revokeKey(db(), found[0]!.hash);
      return { ...keyItem(found[0]!), revoked_at: new Date() };
    },
    'GET /v1/admin/signals': async () => control().signals(),
  };
}

/** A role that is not here. */
export function absent(what: string): never {
  throw new LearndError('not_ready', `${what} is not up yet`, { hint: 'See /readyz.' });
}
