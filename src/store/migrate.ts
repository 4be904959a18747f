import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LearndError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Database, Queryable } from './database.ts';

/** Numbered, forward only. `0001_initial.sql` is migration 1; numbers have no gap. */
export interface Migration {
  readonly n: number;
  readonly name: string;
  readonly sql: string;
  readonly sha256: string;
}

const FOLDER = fileURLToPath(new URL('../../migrations/', import.meta.url));
/** Any constant of our own; the leader's lock has another. */
const LOCK = 0x1ea4_0001;

export function readMigrations(folder: string = FOLDER): Migration[] {
  const files = readdirSync(folder)
    .filter(file => file.endsWith('.sql'))
    .sort();
  return files.map((file, index) => {
    const match = /^(\d{4})_(\w+)\.sql$/.exec(file);
    if (!match || Number(match[1]) !== index + 1)
      throw new LearndError('internal', `migrations/${file}: expected ${String(index + 1).padStart(4, '0')}_name.sql`);
    const sql = readFileSync(`${folder}/${file}`, 'utf8').replaceAll('\r\n', '\n');
    return { n: index + 1, name: match[2]!, sql, sha256: createHash('sha256').update(sql).digest('hex') };
  });
}

async function applied(db: Queryable): Promise<Map<number, string> | undefined> {
  const { rows: there } = await db.query<{ t: string | null }>(`select to_regclass('schema_migrations')::text as t`);
  if (there[0]?.t == null) return undefined;
  const { rows } = await db.query<{ n: number; sha256: string }>('select n, sha256 from schema_migrations');
  return new Map(rows.map(row => [row.n, row.sha256]));
}

/** The migrations still to apply. @throws LearndError when the database is ahead of, or differs from, this program. */
function missing(known: Map<number, string>, migrations: readonly Migration[]): Migration[] {
  const newest = Math.max(0, ...known.keys());
  if (newest > migrations.length)
    throw new LearndError(
      'conflict',
      `the database has schema ${newest}, this program knows schemas up to ${migrations.length}`,
      { hint: 'Start the newer learnd that made it, or restore a backup from before', retriable: false },
    );
  for (const { n, name, sha256 } of migrations) {
    const recorded = known.get(n);
    if (recorded !== undefined && recorded !== sha256)
      throw new LearndError('corrupt', `migration ${n} (${name}) was applied to this database with other content`, {
        hint: 'Migrations are never edited once released: use the program that applied it, or a fresh data directory',
        data: { applied: recorded, present: sha256 },
      });
  }
  return migrations.filter(({ n }) => !known.has(n));
}

/**
 * Brings the schema up to this program's; all missing migrations in one transaction, so a crash leaves the old schema whole.
 * Safe when many start at once: one applies, the others wait and find it done.
 */
export async function migrate(
  db: Database,
  options: { log?: Log; migrations?: readonly Migration[] } = {},
): Promise<{ applied: number[]; schema: number }> {
  const migrations = options.migrations ?? readMigrations();
  const before = await applied(db);
  if (before && missing(before, migrations).length === 0) return { applied: [], schema: migrations.length };
  const done = await db.tx(async tx => {
    await tx.query('select pg_advisory_xact_lock($1)', [LOCK]);
    await tx.query(
      `create table if not exists schema_migrations (
         n int primary key, name text not null, sha256 text not null, applied_at timestamptz not null default now())`,
    );
    const todo = missing((await applied(tx))!, migrations);
    for (const { n, name, sql, sha256 } of todo) {
      try {
        await tx.query(sql);
      } catch (cause) {
        const at = Number((cause as { position?: string }).position);
        const line = Number.isFinite(at) ? `:${sql.slice(0, at).split('\n').length}` : '';
        throw new LearndError('internal', `migration ${n}_${name}.sql${line}: ${(cause as Error).message}`, { cause });
      }
      await tx.query('insert into schema_migrations (n, name, sha256) values ($1, $2, $3)', [n, name, sha256]);
    }
    return todo.map(({ n }) => n);
  });
  if (done.length > 0) options.log?.info('schema migrated', { from: done[0]! - 1, to: done.at(-1) });
  return { applied: done, schema: migrations.length };
}
